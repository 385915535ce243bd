"""Reading what a GGUF file says of itself, and holding it against what transformers made of it.

transformers' reader of GGUF files takes over a fixed list of settings for each architecture and drops the others in
silence: the rotary scaling of Llama 3, the sliding window of Phi 3. A model without them answers, and answers wrongly.
So the file's own words are read here, and what was not taken over is refused by name.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softprompt.errors import BackboneError, UnsupportedBackboneError

# GGUF architectures that transformers reads and `families` serves.
ARCHITECTURES = ("bloom", "falcon", "gemma2", "gemma3", "gpt2", "llama", "mistral", "phi3", "qwen2", "qwen3")

# (the file's key, the configuration's): equal wherever both are there
_SAME = (
    ("block_count", "num_hidden_layers"),
    ("embedding_length", "hidden_size"),
    ("attention.head_count", "num_attention_heads"),
    ("attention.head_count_kv", "num_key_value_heads"),
    ("attention.key_length", "head_dim"),
    ("attention.sliding_window", "sliding_window"),
    ("attn_logit_softcapping", "attn_logit_softcapping"),
    ("final_logit_softcapping", "final_logit_softcapping"),
)
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class GgufHeader:
    """The settings and the tensor names of a GGUF file; of arrays only the length."""

    metadata: Mapping[str, Any]
    tensors: tuple[str, ...]

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the model's family."""
        return str(self.metadata.get("general.architecture", "none"))

    def setting(self, key: str) -> Any:
        """Return the value under `<architecture>.<key>`, or None."""
        return self.metadata.get(f"{self.architecture}.{key}")


def read_header(path: Path, name: str) -> GgufHeader:
    """Read the header of a GGUF file.

    Args:
        path: the file.
        name: what the user asked for, for the message.

    Raises:
        BackboneError: the file is empty, is no GGUF, or ends too early.
    """
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(data).header()
    except (struct.error, ValueError, KeyError, IndexError) as error:
        raise BackboneError(f"`{name}` is no GGUF file, or a damaged one ({error}); take a fresh copy") from error


class _Reader:
    """Walks over the header's bytes."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._at = data, 0

    def header(self) -> GgufHeader:
        magic, version, tensors, settings = bytes(self._data[:4]), *struct.unpack_from("<IQQ", self._data, 4)
        if magic != b"GGUF" or version not in (2, 3):
            raise ValueError(f"it starts with {magic!r}, version {version}")
        self._at = 24
        metadata = {self._string(): self._value(self._number("I")) for _ in range(settings)}
        return GgufHeader(metadata, tuple(self._tensor() for _ in range(tensors)))

    def _number(self, kind: str) -> Any:
        (value,) = struct.unpack_from(f"<{kind}", self._data, self._at)
        self._at += struct.calcsize(kind)
        return value

    def _string(self) -> str:
        length = self._number("Q")
        if self._at + length > len(self._data):
            raise ValueError("it ends in the middle of a text")
        text = self._data[self._at : self._at + length].decode("utf-8")
        self._at += length
        return text

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        return self._array() if kind == _ARRAY else self._number(_NUMBERS[kind])

    def _array(self) -> int:
        """Step over an array (a vocabulary, mostly) and return its length."""
        kind, count = self._number("I"), int(self._number("Q"))
        if kind in _NUMBERS:
            self._at += count * struct.calcsize(_NUMBERS[kind])
            return count
        for _ in range(count):
            self._value(kind)
        return count

    def _tensor(self) -> str:
        name, dimensions = self._string(), self._number("I")
        self._at += 8 * dimensions + 12  # sizes, type and offset
        return name


def check_header(header: GgufHeader, name: str) -> None:
    """Refuse a GGUF file that transformers would read wrongly or not at all.

    Raises:
        UnsupportedBackboneError: the architecture is not served, or its rotary positions are scaled.
    """
    if header.architecture not in ARCHITECTURES:
        raise UnsupportedBackboneError(
            f"`{name}` has the GGUF architecture `{header.architecture}`, which is not served; "
            f"served: {', '.join(ARCHITECTURES)}"
        )
    scaling = header.setting("rope.scaling.type")
    factors = [tensor for tensor in header.tensors if tensor.startswith(("rope_freqs", "rope_factors"))]
    if factors or scaling not in (None, "none"):
        found = f"the tensor `{factors[0]}`" if factors else f"`{scaling}`"
        raise UnsupportedBackboneError(
            f"`{name}` scales its rotary positions ({found}), which transformers drops when it reads a GGUF; "
            "load the original safetensors folder or hub id"
        )


def check_config(header: GgufHeader, config: Any, name: str) -> None:
    """Refuse a configuration that lost or changed a setting of the GGUF file it was made from.

    Args:
        header: of the file.
        config: the transformers configuration made from it.
        name: what the user asked for, for the message.

    Raises:
        UnsupportedBackboneError: a setting differs.
    """
    told = [(key, header.setting(key), getattr(config, attribute, None)) for key, attribute in _SAME]
    told += [("rope.freq_base", header.setting("rope.freq_base"), _rotary(config).get("rope_theta"))]
    told += [("rope.dimension_count", header.setting("rope.dimension_count"), _rotary_size(config))]
    for key, stated, made in told:
        if stated is not None and not _agree(key, stated, made):
            raise UnsupportedBackboneError(
                f"`{name}` says `{key}` is {stated}, but transformers made {made} of it; "
                "load the original safetensors folder or hub id"
            )


def _agree(key: str, stated: Any, made: Any) -> bool:
    """Say whether two values are the same; a setting the family does not know is no difference, but for a window."""
    if made is None:
        return key != "attention.sliding_window"
    return abs(float(stated) - float(made)) <= 1e-5 * abs(float(stated))


def _rotary(config: Any) -> Mapping[str, Any]:
    settings: Mapping[str, Any] = getattr(config, "rope_parameters", None) or {}
    of_full_layers: Mapping[str, Any] = settings.get("full_attention", settings)
    return of_full_layers


def _rotary_size(config: Any) -> float | None:
    if not _rotary(config):
        return None
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return float(head * _rotary(config).get("partial_rotary_factor", 1.0))
