"""Ctrl-C and SIGTERM end a run between two steps, after its state is safe."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interruption:
    """Whether the run has been asked to stop."""

    asked = False


@contextmanager
def interruption() -> Iterator[Interruption]:
    """Note the first Ctrl-C or SIGTERM instead of dying of it; a second one acts at once.

    Outside the main thread, where signals cannot be caught, nothing is changed.
    """
    state = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield state
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        if state.asked:
            raise KeyboardInterrupt
        state.asked = True
        os.write(2, b"stopping after this step; once more stops at once\n")  # print is not safe in a handler

    for number in before:
        signal.signal(number, note)
    try:
        yield state
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
