"""Prompts in from tools that keep rows alone: Google's prompt-tuning, IBM's text-generation-inference, KoboldAI.

None of their files says which backbone, template or answers its rows were trained with, so the caller does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from torch import Tensor

from softprompt.backbones.backbone import Backbone
from softprompt.errors import ConfigError, IncompatiblePromptError, PromptFileError
from softprompt.prompts.canonical import JSON, parse
from softprompt.prompts.header import read_bytes, refused
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.registry import unknown_name
from softprompt.shapes import Float
from softprompt.store.archive import SIGNATURE as ZIP
from softprompt.store.archive import Archive
from softprompt.store.npy import SIGNATURE as NPY
from softprompt.store.npy import read_npy
from softprompt.store.rows import checked_rows
from softprompt.store.torch_file import LEGACY, read_torch
from softprompt.tasks.readout import Readout
from softprompt.tasks.template import Template

Format = Literal["softprompt", "peft", "google", "tgis", "kobold"]
"""What a file or a folder of prompts may be of: our own, PEFT's, prompt-tuning's, TGIS's or KoboldAI's."""

FOREIGN = ("google", "tgis", "kobold")
_TITLES = {"google": "prompt-tuning (Google)", "tgis": "TGIS (IBM)", "kobold": "KoboldAI"}
_ENCODER, _DECODER = "encoder.pt", "decoder.pt"
_TENSOR, _META = "tensor.npy", "meta.json"
_MAX_META = 2**16
_MAX_TEXT = 1000


class _Read(NamedTuple):
    """Rows as a file holds them, what it says of them, and which input they are for, where it says so."""

    rows: Float[Tensor, "P D"]
    origin: Mapping[str, JSON]
    place: Literal["encoder", "decoder"] | None = None


def format_of(path: Path) -> Format:
    """Tell from its first bytes, or a folder from its files, which format a prompt is of.

    A file of none of the others is taken for our own, and a folder for PEFT's, whose readers say what is wrong with it.

    Raises:
        PromptFileError: no such path, or a damaged archive.
        StorageError: it may not be read.
    """
    if path.is_dir():
        return "tgis" if (path / _ENCODER).exists() or (path / _DECODER).exists() else "peft"
    data = read_bytes(path)
    if data.startswith(NPY):
        return "google"
    if data.startswith(LEGACY):
        return "tgis"
    if data.startswith(ZIP):
        return "kobold" if _TENSOR in Archive(data, path.name, _ANY).names else "tgis"
    return "softprompt"


def import_foreign(
    path: Path,
    backbone: Backbone,
    *,
    template: Template | None = None,
    readout: Readout | None = None,
    format: Format | None = None,
) -> SoftPrompt:
    r"""Read rows that another tool trained as a prompt.

    Args:
        path: Google's `.npy`; `encoder.pt` or `decoder.pt` of TGIS, or the folder with it; KoboldAI's zip.
        backbone: the one that the rows were trained on; the file does not record it, so this is taken on trust.
        template: the pattern of a row, with the soft slots where the rows stood: `"{soft}{text}\nLabel:"`.
        readout: what reads the answers.
        format: `google`, `tgis` or `kobold`; `None`: told from the file.

    Raises:
        ConfigError: the template or the readout is missing.
        UnknownNameError: another format.
        IncompatiblePromptError: rows of another size than the backbone's embeddings, or for the other of an
            encoder-decoder's two inputs.
        PromptFileError: the file is damaged, not finite, or holds anything but rows.
        StorageError: the file may not be read.
        TemplateError: the template has no `{soft}`.
    """
    kind = format or format_of(path)
    if kind not in FOREIGN:
        raise unknown_name("format of rows", kind, FOREIGN)
    if template is None or readout is None:
        missing = "a template" if template is None else "a readout"
        raise ConfigError(
            f"`{path.name}` holds rows of {_TITLES[kind]} and does not say what they are for; give {missing}, "
            'for instance Template("{soft}{text}\\nLabel:") and LabelWords.from_labels(["ham", "spam"])'
        )
    found = _READERS[kind](path)
    _check_size(path.name, found, backbone)
    template.tokenize(backbone.tokenizer, len(found.rows))
    site = "encoder.input" if backbone.kind == "encoder-decoder" else "input"
    return SoftPrompt(
        {site: found.rows},
        template,
        readout,
        backbone.fingerprint,
        provenance={f"imported from {_TITLES[kind]}": dict(found.origin)},
    )


_ANY = ("stored", "deflate", "lzma")


def _check_size(name: str, found: _Read, backbone: Backbone) -> None:
    width = found.rows.shape[1]
    if width != backbone.embedding_size:
        raise IncompatiblePromptError(
            f"the rows in `{name}` have {width} numbers each and the embeddings of `{backbone.name}` have "
            f"{backbone.embedding_size}; use the backbone that they were trained on"
        )
    needed = "encoder" if backbone.kind == "encoder-decoder" else "decoder"
    if found.place is not None and found.place != needed:
        raise IncompatiblePromptError(
            f"the rows in `{name}` are for the {found.place}'s input, and a prompt for `{backbone.name}` "
            f"({backbone.kind}) has rows at the {needed}'s"
        )


def _google(path: Path) -> _Read:
    return _Read(checked_rows(read_npy(read_bytes(path), path.name), path.name, "the array"), {"file": path.name})


def _tgis(path: Path) -> _Read:
    """Rows of one input; of a folder with both, which our prompts cannot hold, neither is dropped silently."""
    both = [path / name for name in (_ENCODER, _DECODER) if (path / name).exists()] if path.is_dir() else [path]
    if len(both) != 1:
        found = f"both `{_ENCODER}` and `{_DECODER}`" if both else f"neither `{_ENCODER}` nor `{_DECODER}`"
        raise refused(
            path.name, f"it has {found}, and a prompt has rows at one input; give the file of that input itself"
        )
    file = both[0]
    rows = checked_rows(read_torch(read_bytes(file), file.name), file.name)
    places: Mapping[str, Literal["encoder", "decoder"]] = {_ENCODER: "encoder", _DECODER: "decoder"}
    return _Read(rows, {"file": file.name}, places.get(file.name))


def _kobold(path: Path) -> _Read:
    archive = Archive(read_bytes(path), path.name, _ANY)
    strange = [name for name in archive.names if name not in (_TENSOR, _META)]
    if strange:
        raise refused(path.name, f"it has a member `{strange[0]}`; a soft prompt has `{_TENSOR}` and `{_META}` alone")
    rows = checked_rows(read_npy(archive.read(_TENSOR), f"{path.name}/{_TENSOR}"), path.name, _TENSOR)
    return _Read(rows, {"file": path.name, **_told(archive, path.name)})


def _told(archive: Archive, name: str) -> Mapping[str, JSON]:
    """What KoboldAI's `meta.json` says of a prompt, none of which changes what it means."""
    if _META not in archive.names:
        return {}
    try:
        meta = parse(archive.read(_META, _MAX_META).decode("utf-8"))
    except ValueError as error:
        if isinstance(error, PromptFileError):
            raise
        raise refused(name, f"its `{_META}` is not plain JSON ({error}); save it again") from error
    if not isinstance(meta, dict):
        raise refused(name, f"its `{_META}` is not a JSON object; save it again")
    known = {key: meta.get(key) for key in ("name", "author", "description", "supported")}
    return {key: value[:_MAX_TEXT] for key, value in known.items() if isinstance(value, str)}


_READERS = {"google": _google, "tgis": _tgis, "kobold": _kobold}
assert set(_READERS) == set(FOREIGN) < set(get_args(Format))
