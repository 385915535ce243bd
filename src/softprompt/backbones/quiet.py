"""Keeping transformers' own bars and advice off the terminal while it loads; ours are shown instead."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers inside the block, and leave its settings as they were."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def unheard_bars() -> Iterator[None]:
    """Drop what is written to standard error inside the block: a bar that transformers draws whatever its settings."""
    with redirect_stderr(_Unheard(sys.stderr)):
        yield


class _Unheard(io.TextIOBase):
    """A stream that drops its text; rich, which draws our own bar, looks behind it by this attribute."""

    def __init__(self, real: object) -> None:
        self.rich_proxied_file = getattr(real, "rich_proxied_file", real)

    def write(self, text: str) -> int:
        return len(text)
