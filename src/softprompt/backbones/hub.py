"""Backbones from the Hugging Face hub: the files of one revision, downloaded once into the hub's own cache."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR
from pathlib import Path

from softprompt.backbones.families import family_of
from softprompt.backbones.folder import read_config
from softprompt.errors import BackboneError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# Weights as safetensors in the top folder, configuration, tokenizer: no pickled weights, no code, no second formats.
_WANTED = ["*.json", "model*.safetensors", "tokenizer*", "*.model", "*.txt", "*.jinja"]
_PATIENCE = 10.0  # seconds
_UNWANTED = ["*/*", "*.fp16.*", "*.bf16.*", "*.fp32.*"]


def is_hub_id(source: str) -> bool:
    """Say whether a text is written like a hub id.

    >>> is_hub_id("google/gemma-3-270m"), is_hub_id("gemma-3-270m"), is_hub_id("./models/gemma")
    (True, False, False)
    """
    return _HUB_ID.fullmatch(source) is not None


def download(source: str, revision: str | None) -> Path:
    """Return the folder of a hub model, downloading what is not in the hub's cache; `HF_HUB_OFFLINE` is honoured.

    The configuration comes first: a family that is not served is refused before its weights are downloaded.

    Args:
        source: a hub id, `owner/name`.
        revision: a branch, tag or commit; None: the main branch.

    Raises:
        BackboneError: the hub has no such model or revision, asks for a login, or cannot be reached.
        UnsupportedBackboneError: the family is not served.
    """
    from huggingface_hub import snapshot_download

    config = config_folder(source, revision)
    family_of(read_config(config, source), source)
    with _explained(source, revision), _quiet_hub():
        return Path(snapshot_download(source, revision=revision, allow_patterns=_WANTED, ignore_patterns=_UNWANTED))


def config_folder(source: str, revision: str | None) -> Path:
    """Return a folder with a hub model's `config.json`, downloading that file alone if it is not in the hub's cache.

    Args:
        source: a hub id, `owner/name`.
        revision: a branch, tag or commit; None: the main branch.

    Raises:
        BackboneError: as for `download`.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

    with _explained(source, revision), _quiet_hub():
        if not isinstance(try_to_load_from_cache(source, "config.json", revision=revision), str):
            # Asked once, without the five retries of a download: no network is said at once, not after half a minute.
            get_hf_file_metadata(hf_hub_url(source, "config.json", revision=revision), timeout=_PATIENCE)
        return Path(hf_hub_download(source, "config.json", revision=revision)).parent


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Keep the hub's warnings of its retries off the terminal; its download bars stay."""
    from huggingface_hub.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity(ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(level)


@contextmanager
def _explained(source: str, revision: str | None) -> Iterator[None]:
    """Turn the hub's errors into one sentence each."""
    from huggingface_hub import constants, errors
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # httpx's or httpx2's, whichever it uses

    asked = f"`{source}`" + (f" at revision `{revision}`" if revision else "")
    try:
        yield
    except BackboneError:
        raise
    except errors.GatedRepoError as error:
        raise BackboneError(f"{asked} is gated: accept its terms on its hub page, then `hf auth login`") from error
    except errors.RevisionNotFoundError as error:
        raise BackboneError(
            f"the hub has `{source}`, but no revision `{revision}` of it; check the spelling"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise BackboneError(
            f"the hub has no {asked}, or it is private: check the spelling or `hf auth login`"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise _out_of_reach(asked, offline=constants.HF_HUB_OFFLINE) from error
    except errors.EntryNotFoundError as error:
        raise BackboneError(f"{asked} on the hub holds no config.json, so it is no transformers model") from error
    except (errors.HfHubHTTPError, errors.HFValidationError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BackboneError(f"{asked} cannot be downloaded ({reason}); try again, or give a folder") from error
    except HTTPError as error:  # no answer at all
        raise _out_of_reach(asked, offline=False) from error
    except OSError as error:
        raise BackboneError(
            f"{asked} cannot be downloaded ({error}); make room, or set HF_HOME to another disk"
        ) from error


def _out_of_reach(asked: str, *, offline: bool) -> BackboneError:
    why = "HF_HUB_OFFLINE is set: unset it" if offline else "the hub cannot be reached: connect to the network"
    return BackboneError(
        f"{asked} is not in the local hub cache and {why}, or give a folder, a .gguf file or a packaged name"
    )
