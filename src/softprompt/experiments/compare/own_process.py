"""A module in a process of its own: it is asked one thing, its memory is its own, and its end is not ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

Plain = dict[str, Any]


class End(NamedTuple):
    """How a process ended.

    Attributes:
        answer: what it said; None: it ended without an answer.
        why: how it came to that, in words; empty where there is an answer.
    """

    answer: Plain | None
    why: str = ""


class OwnProcess:
    """A process that is asked one thing, in JSON, and answers it.

    It sees the end of this process as the end of its standard input, and ends too: after `kill -9` nothing goes on
    unseen. A Ctrl-C at the keyboard does not reach it; whoever started it calls `end`.

    Args:
        command: the words that start it; its module calls `answer_one`.
        question: plain JSON.
        environment: variables that it has beside ours.
    """

    def __init__(
        self, command: Sequence[str], question: Mapping[str, Any], environment: Mapping[str, str] | None = None
    ) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - the words are our own
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        assert self._process.stdin is not None, "it was asked for"
        with suppress(BrokenPipeError):  # it ended at once, and `wait` says how
            self._process.stdin.write(json.dumps(question).encode("utf-8") + b"\n")
            self._process.stdin.flush()

    def wait(self) -> End:
        """Wait until it has ended, and say how."""
        assert self._process.stdout is not None, "it was asked for"
        told = self._process.stdout.read()
        code = self._process.wait()
        self._close()
        if code == 0 and told:
            answer: Plain = json.loads(told)
            return End(answer)
        return End(None, how_it_ended(code))

    def end(self) -> None:
        """End it, if it has not ended."""
        with suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        self._close()

    def _close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()


def how_it_ended(code: int) -> str:
    """Say in words how a process ended that gave no answer.

    >>> how_it_ended(3)
    'its process ended with exit code 3 and no answer'
    >>> how_it_ended(-11)
    'its process was ended by SIGSEGV'
    """
    if code >= 0:
        return f"its process ended with exit code {code} and no answer"
    name = signal.Signals(-code).name if -code in {*signal.Signals} else f"signal {-code}"
    full = ", most likely because the machine had no memory left" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{full}"


def python(module: str) -> tuple[str, ...]:
    """Return the words that start a module of ours in another process.

    >>> python("softprompt.experiments.compare.cell")[1:]
    ('-m', 'softprompt.experiments.compare.cell')
    """
    return (sys.executable, "-m", module)


def answer_one(answering: Callable[[Plain], Plain]) -> None:
    """Be the process: read the question, say the answer, and end; what is printed meanwhile is news."""
    question = json.loads(sys.stdin.buffer.readline())
    answers = os.dup(1)
    os.dup2(2, 1)
    _offer_itself()
    threading.Thread(target=_end_with_whoever_asked, daemon=True).start()
    told = json.dumps(answering(question)).encode("utf-8")
    with os.fdopen(answers, "wb") as stream:
        stream.write(told)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # libraries' threads now and then abort an orderly end, its work done


def _end_with_whoever_asked() -> None:
    """Wait until standard input ends: its other end is held by the process that asked, and by no other."""
    with suppress(OSError):
        while os.read(0, 1):
            pass
    os._exit(1)


def _offer_itself() -> None:
    """Where memory runs out, Linux is to end this process and no other."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
