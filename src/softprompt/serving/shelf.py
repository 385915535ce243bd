"""Prompts kept ready by their digests, the least used given away first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future

from softprompt.prompts.soft_prompt import SoftPrompt

_EACH = 8192
"""Bytes counted for a prompt besides its tensors."""


class Shelf:
    """Loads each prompt once, outside the lock, and keeps as many as fit; any thread may ask.

    A prompt that is larger than the whole shelf is loaded each time.

    Args:
        load: reads and checks the prompt of a digest.
        max_bytes: of all that is kept.
    """

    def __init__(self, load: Callable[[str], SoftPrompt], max_bytes: int) -> None:
        self._load, self._room = load, max_bytes
        self._kept: OrderedDict[str, SoftPrompt] = OrderedDict()
        self._coming: dict[str, Future[SoftPrompt]] = {}
        self._lock = threading.Lock()
        self._bytes = 0

    @property
    def bytes(self) -> int:
        """What is kept now."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, digest: str) -> SoftPrompt:
        """Return the prompt of a digest, loaded if it is not there; threads that ask meanwhile wait for the one load.

        Raises:
            SoftPromptError: whatever loading it raised.
        """
        with self._lock:
            if digest in self._kept:
                self._kept.move_to_end(digest)
                return self._kept[digest]
            coming = self._coming.get(digest)
            mine: Future[SoftPrompt] | None = None
            if coming is None:
                coming = mine = self._coming[digest] = Future()
        if mine is not None:
            self._fetch(digest, mine)
        return coming.result()

    def drop(self, digest: str) -> None:
        """Let go of the prompt of a digest, if it is kept; whoever asks next loads it again."""
        with self._lock:
            prompt = self._kept.pop(digest, None)
            self._bytes -= 0 if prompt is None else size_of(prompt)

    def _fetch(self, digest: str, coming: Future[SoftPrompt]) -> None:
        """Load a prompt for all who wait for it."""
        try:
            prompt = self._load(digest)
        except BaseException as error:  # noqa: BLE001 - it is raised in every thread that waits
            with self._lock:
                del self._coming[digest]
            coming.set_exception(error)
            return
        with self._lock:
            del self._coming[digest]
            self._keep(digest, prompt)
        coming.set_result(prompt)

    def _keep(self, digest: str, prompt: SoftPrompt) -> None:
        size = size_of(prompt)
        if size > self._room:
            return  # all others would go, and then it too
        self._kept[digest] = prompt
        self._bytes += size
        while self._bytes > self._room:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= size_of(oldest)


def size_of(prompt: SoftPrompt) -> int:
    """Return about how many bytes a prompt takes in memory."""
    return _EACH + sum(tensor.numel() * tensor.element_size() for tensor in prompt.tensors.values())
