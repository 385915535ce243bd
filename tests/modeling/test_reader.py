"""Which reading a prompt's tensors call for: learned rows are read as rows, with a bias or without."""

import pytest
import torch

from softprompt.modeling.bound import FEATURES
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.prompts import manifest, sites
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.readout_kinds import Scalar, YesNo
from softprompt.tasks.tags import TokenTags
from softprompt.tasks.template import Template
from softprompt.testing.tiny import tiny_backbone

READOUTS = (
    LabelWords.from_labels(["ham", "spam"]),
    YesNo.from_labels(["warm", "dull"]),
    Scalar(1.0, 5.0, (" awful", " great")),
    TokenTags.from_tags(["B-Q", "O"], column="text"),
)
ROWS = [{"text": f"{word} film"} for word in ("a good", "the bad", "one more dull")]


@pytest.mark.parametrize("family", ["gemma3", "bert"])
@pytest.mark.parametrize("readout", READOUTS, ids=lambda readout: readout.kind)
def test_learned_rows_without_a_bias_have_a_bias_of_zero(family, readout):
    backbone = tiny_backbone(family)
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn(readout.outputs, backbone.hidden_size, generator=generator)
    tensors = {"input": torch.randn(3, backbone.embedding_size, generator=generator), "readout.weight": weight}

    def read(**more):
        template = Template("{bos}{soft}Text: {text}\nLabel:")
        prompt = SoftPrompt({**tensors, **more}, template, readout, backbone.fingerprint)
        kept = SoftPrompt.from_bytes(prompt.to_bytes())
        return torch.cat([each.flatten() for each in PromptedModel(backbone).read(ROWS, kept).log_probabilities])

    plain = read()
    assert torch.equal(plain, read(**{"readout.bias": torch.zeros(readout.outputs)}))
    assert (plain - read(**{"readout.weight": weight.flip(1)})).abs().max() > 1e-3


def test_all_that_a_file_may_require_is_computed_here():
    assert FEATURES == manifest.WRITTEN_FEATURES | sites.FEATURES
