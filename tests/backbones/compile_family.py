"""Compile a tiny family's layers and compare; run by `test_compiling.py` without its type checks, which cannot be."""

import sys

import torch

from softprompt.backbones.compiling import compiled
from softprompt.testing.tiny import tiny_backbone


def states_and_slopes(backbone, rows=3, tokens=11, slots=5, seed=0):
    """Hidden states of padded rows behind one prefix, and the gradients at rows and prefix."""
    generator = torch.Generator().manual_seed(seed)
    scale = backbone.embedding_rms
    prefix = (scale * torch.randn(1, slots, backbone.embedding_size, generator=generator)).requires_grad_()
    embeddings = (scale * torch.randn(rows, tokens, backbone.embedding_size, generator=generator)).requires_grad_()
    ones = torch.ones(1, slots, dtype=torch.long)
    _, past = backbone.run(prefix, mask=ones, positions=ones.cumsum(1) - 1, keep=True)
    mask = torch.ones(rows, slots + tokens, dtype=torch.long)
    mask[0, -3:] = 0
    shared = [tuple(each.expand(rows, -1, -1, -1) for each in layer) for layer in past]
    hidden, _ = backbone.run(embeddings, mask=mask, positions=(mask.cumsum(1) - 1)[:, slots:], past=shared)
    hidden = hidden * mask[:, slots:, None]
    weights = torch.randn(hidden.shape, generator=generator)
    return hidden, *torch.autograd.grad((hidden * weights).sum(), [embeddings, prefix])


def numbers(backbone):
    return {name: module.layer_idx for name, module in backbone.model.named_modules() if hasattr(module, "layer_idx")}


def main(family):
    backbone = tiny_backbone(family)
    own = numbers(backbone)
    others = [{"rows": 5, "tokens": 7, "slots": 9, "seed": 1}, {"rows": 2, "tokens": 20, "slots": 20, "seed": 2}]
    wanted = [states_and_slopes(backbone, **each) for each in others]
    with compiled(backbone, lambda: states_and_slopes(backbone)) as able:
        assert able, "the layers were compiled"
        with torch.compiler.set_stance("fail_on_recompile"):
            found = [states_and_slopes(backbone, **each) for each in others]
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1, "one graph serves all layers"
    for one, other in zip(found, wanted, strict=True):
        for mine, theirs in zip(one, other, strict=True):
            difference = float((mine - theirs).detach().abs().max()) / float(theirs.detach().abs().max())
            assert difference < 1e-5, f"{family}: off by {difference}"
    assert numbers(backbone) == own
    assert not any("forward" in vars(module) for module in backbone.model.modules())


if __name__ == "__main__":
    main(sys.argv[1])
