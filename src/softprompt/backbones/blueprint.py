"""What a model is made of, counted without its weights: parameters by group, linear layers, heads, windows, experts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from softprompt.backbones.blank import Blank, blank_model
from softprompt.backbones.families import Kind
from softprompt.errors import UnsupportedBackboneError

Group = Literal["embeddings", "attention", "mlp", "experts", "norms", "head", "other"]
_KEYS_AND_VALUES = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
GROUPS: tuple[Group, ...] = ("embeddings", "attention", "mlp", "experts", "norms", "head", "other")


@dataclass(frozen=True)
class LinearShape:
    """Linear layers that are alike.

    Attributes:
        name: what they are called inside a layer, such as `self_attn.q_proj`.
        group: what they belong to.
        stack: `encoder` or `decoder` in a model that has both; else empty.
        inputs, outputs: of one of them.
        bias: whether they have one.
        count: how many there are.
    """

    name: str
    group: Group
    stack: str
    inputs: int
    outputs: int
    bias: bool
    count: int

    @property
    def weights(self) -> int:
        """Weights of all of them, without biases."""
        return self.inputs * self.outputs * self.count


@dataclass(frozen=True)
class AttentionShape:
    """The attention of one layer.

    Attributes:
        heads: of queries.
        key_values: H, heads of keys and values.
        size: K, numbers of a head.
        window: columns that it sees at most; None: all.
    """

    heads: int
    key_values: int
    size: int
    window: int | None

    @property
    def numbers(self) -> int:
        """Keys and values of one token, 2·H·K."""
        return 2 * self.key_values * self.size


@dataclass(frozen=True)
class Blueprint:
    """A model in plain numbers.

    Attributes:
        name: what the user asked for.
        model_type: transformers' name of its architecture.
        kind: `decoder`, `encoder` or `encoder-decoder`.
        embedding_size: D, numbers of a virtual token.
        hidden_size: of a hidden state, as an output row reads it.
        vocabulary: V, rows of the embedding matrix.
        max_positions: the longest row that the configuration names; None: it names none.
        layers: the attention of every layer that a deep prompt reaches; of an encoder-decoder the decoder's.
        blocks: transformer layers of all stacks, by the size of their hidden states.
        linears: linear layers by shape, those of the output rows among them.
        groups: parameters by group; tied output rows are counted once, as embeddings.
        tied: the output rows are the embedding matrix.
        biases: parameters that are biases inside the transformer, of norms too.
        experts: experts of a layer and those that a token goes through; None: it has none.
        notes: what was left out, a sentence each.
    """

    name: str
    model_type: str
    kind: Kind
    embedding_size: int
    hidden_size: int
    vocabulary: int
    max_positions: int | None
    layers: tuple[AttentionShape, ...]
    blocks: Mapping[int, int]
    linears: tuple[LinearShape, ...]
    groups: Mapping[str, int]
    tied: bool
    biases: int
    experts: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """All parameters."""
        return sum(self.groups.values())

    @property
    def active(self) -> int:
        """Parameters that one token goes through: of the experts only those that it is sent to."""
        if self.experts is None:
            return self.total
        every, used = self.experts
        return self.total - self.groups["experts"] + self.groups["experts"] * used // every

    @property
    def multiplied(self) -> int:
        """Weights that one token is multiplied with in the layers: no embedding and no output row among them."""
        linear = sum(each.weights for each in self.linears if each.group in ("attention", "mlp", "other"))
        if self.experts is None:
            return linear
        return linear + self.groups["experts"] * self.experts[1] // self.experts[0]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        counted = {"parameters": self.total, "active parameters": self.active}
        return {**counted, **asdict(self), "blocks": {str(size): n for size, n in self.blocks.items()}}


def blueprint(source: str | Path | Mapping[str, Any], revision: str | None = None) -> Blueprint:
    """Count a model of any size; nothing but a configuration is read.

    >>> blueprint("gpt-3-175b").total
    174604259328

    Args:
        source: as for `blank_model`.
        revision: of a hub id.

    Raises:
        BackboneError, UnknownNameError, UnsupportedBackboneError: as for `blank_model`; and layers that keep
            something else than each head's keys and values.
    """
    return blueprint_of(blank_model(source, revision=revision))


def blueprint_of(blank: Blank) -> Blueprint:
    """Count a model that has been built without weights."""
    model, config = blank.model, blank.config
    _refuse_other_caches(blank)
    owners = _owners(blank)
    groups = Counter(dict.fromkeys(GROUPS, 0))
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    for path, parameter in model.named_parameters():
        group = "embeddings" if parameter is embeddings.weight else _group(path, owners)
        groups[group] += parameter.numel()
    return Blueprint(
        name=blank.name,
        model_type=str(config.model_type),
        kind=blank.kind,
        embedding_size=int(embeddings.weight.shape[1]),
        hidden_size=int(config.hidden_size if head is None else head.weight.shape[1]),
        vocabulary=int(embeddings.weight.shape[0]),
        max_positions=getattr(config, "max_position_embeddings", None),
        layers=tuple(_layers(blank)),
        blocks=_blocks(blank),
        linears=tuple(_linears(blank, owners)),
        groups={group: groups[group] for group in GROUPS},
        tied=head is not None and head.weight is embeddings.weight,
        biases=sum(p.numel() for path, p in model.base_model.named_parameters() if path.endswith("bias")),
        experts=_experts(config) if groups["experts"] else None,
        notes=blank.notes,
    )


def _refuse_other_caches(blank: Blank) -> None:
    """What is not keys and values of every head has another size, and other operations, than are reckoned with here."""
    config = blank.config
    kinds = set(getattr(config, "layer_types", None) or ()) - _KEYS_AND_VALUES
    what = f"layers of the kind `{min(kinds)}`" if kinds else ""
    if getattr(config, "kv_lora_rank", None) is not None:
        what = "attention that keeps one compressed vector for all heads (`kv_lora_rank`)"
    if what:
        raise UnsupportedBackboneError(
            f"`{blank.name}` (model type `{config.model_type}`) has {what}, which is not reckoned with yet; take a "
            "model whose layers keep keys and values of their heads"
        )


def _owners(blank: Blank) -> dict[str, nn.Module]:
    return dict(blank.model.named_modules())


def _group(path: str, owners: Mapping[str, nn.Module]) -> Group:
    """What a parameter or a linear layer belongs to, told by its modules' kinds and names."""
    parts = path.lower().split(".")
    module = owners.get(path.rpartition(".")[0])
    if "norm" in type(module).__name__.lower():
        return "norms"
    if any(part in _HEADS for part in parts[:2]):
        return "head"
    if not any(part.isdigit() for part in parts):
        embeds = isinstance(module, nn.Embedding) or "embed" in type(module).__name__.lower()
        return "embeddings" if embeds else "other"
    if "experts" in parts:
        return "experts"
    return "attention" if any("attn" in part or "attention" in part for part in parts[:-1]) else "mlp"


_HEADS = (
    "lm_head", "cls", "predictions", "vocab_transform", "vocab_projector", "vocab_layer_norm", "head", "embed_out",
    "decoder_head", "final_logits_bias",
)  # fmt: skip


def is_linear(module: nn.Module) -> bool:
    """Say whether a module multiplies by a matrix: `Linear`, or GPT-2's `Conv1D`, whose matrix lies on its side."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def sides_of(module: Any) -> tuple[int, int]:
    """Return the sizes of what a linear layer takes and gives."""
    first, second = module.weight.shape
    return (int(second), int(first)) if isinstance(module, nn.Linear) else (int(first), int(second))


def _linears(blank: Blank, owners: Mapping[str, nn.Module]) -> Iterator[LinearShape]:
    found: Counter[tuple[str, Group, str, int, int, bool]] = Counter()
    output = blank.model.get_output_embeddings()
    for path, module in owners.items():
        if is_linear(module):
            inputs, outputs = sides_of(module)
            group = "head" if module is output or output is None else _group(f"{path}.weight", owners)
            stack = _stack(path) if blank.kind == "encoder-decoder" else ""
            found[_inside(path), group, stack, inputs, outputs, module.bias is not None] += 1
    for key, count in found.items():
        yield LinearShape(*key, count)


def _inside(path: str) -> str:
    """The name of a module from the last number in it on: `model.layers.3.mlp.up_proj` is `mlp.up_proj`."""
    parts = path.split(".")
    start = max((i + 1 for i, part in enumerate(parts) if part.isdigit()), default=0)
    return ".".join(parts[start:])


def _stack(path: str) -> str:
    return next((part for part in path.split(".") if part in ("encoder", "decoder")), "decoder")


def _layers(blank: Blank) -> Iterator[AttentionShape]:
    """The attention of every layer, from the configuration: the layers' own settings where they differ."""
    config = blank.config
    count = _first(config, "num_decoder_layers", "decoder_layers") if blank.kind == "encoder-decoder" else None
    count = count or int(config.num_hidden_layers)
    names = ("decoder_attention_heads",) if blank.kind == "encoder-decoder" else ()
    heads = int(_first(config, *names, "num_attention_heads", "num_heads", "n_head") or 1)
    size = _first(config, "head_dim", "d_kv") or int(config.hidden_size) // heads
    windows = _windows(config, count)
    for window in windows:
        yield AttentionShape(heads, _key_values(config, heads), int(size), window)


def _key_values(config: Any, heads: int) -> int:
    """H, as the layers hand them to a cache: Falcon's later design repeats its few for every head before."""
    if str(config.model_type) == "falcon":
        return 1 if config.multi_query and not config.new_decoder_architecture else heads
    return int(getattr(config, "num_key_value_heads", None) or heads)


def _windows(config: Any, count: int) -> list[int | None]:
    """How many columns each layer sees; `local_attention` is ModernBERT's word for it."""
    window = _first(config, "local_attention", "sliding_window")
    kinds = getattr(config, "layer_types", None)
    if window is None or not getattr(config, "use_sliding_window", True):
        return [None] * count
    if not kinds:
        return [window] * count
    return [window if kind == "sliding_attention" else None for kind in kinds[:count]]


def _blocks(blank: Blank) -> dict[int, int]:
    """Layers of all stacks by the size of their hidden states."""
    config = blank.config
    stacks = [int(config.num_hidden_layers)]
    if blank.kind == "encoder-decoder":
        stacks = [
            int(_first(config, "encoder_layers", "num_layers") or 0),
            int(_first(config, "decoder_layers", "num_decoder_layers") or 0),
        ]
    return {int(config.hidden_size): sum(stacks)}


def _experts(config: Any) -> tuple[int, int]:
    every = _first(config, "num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    used = _first(config, "num_experts_per_tok", "num_experts_per_token", "moe_top_k")
    return int(every or 1), int(used or every or 1)


def _first(config: Any, *names: str) -> Any:
    """The first setting that is there and not None."""
    return next((value for name in names if (value := getattr(config, name, None)) is not None), None)
