"""A folder of files that appears whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from softprompt.errors import ConfigError, StorageError


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """Give a hidden folder to fill, which becomes `folder` when the block ends well.

    Raises:
        ConfigError: there is something in the folder.
        StorageError: the disk is full, or the folder may not be written.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError(f"`{folder}` is there already; give a folder that is new or empty")
    hidden = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
    try:
        hidden.mkdir(parents=True)
        yield hidden
        if folder.exists():
            folder.rmdir()
        os.replace(hidden, folder)
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(
            f"cannot write `{folder}`: {error.strerror or error}; nothing was left half-written"
        ) from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
