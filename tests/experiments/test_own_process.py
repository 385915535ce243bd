"""A process of its own: asked in JSON, ended with whoever asked, and never silent about how it died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from softprompt.experiments.compare.own_process import End, OwnProcess, how_it_ended

CHILD = """
from softprompt.experiments.compare.own_process import answer_one
def answered(question):
    print("news")
    {body}
    return {{"twice": 2 * question["number"]}}
answer_one(answered)
"""


def asked(body: str = "pass", number: int = 2) -> OwnProcess:
    return OwnProcess([sys.executable, "-c", CHILD.format(body=body)], {"number": number}, {"OURS": "here"})


def test_it_answers_and_what_it_prints_is_news(capfd):
    assert asked().wait() == End({"twice": 4}, "")
    assert capfd.readouterr() == ("", "news\n")
    assert asked("import os; question['number'] = len(os.environ['OURS'])").wait().answer == {"twice": 8}


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL, most likely because the machine had no"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "its process was ended by SIGSEGV"),
        ("import os; os._exit(7)", "its process ended with exit code 7 and no answer"),
        ("raise ValueError('why')", "its process ended with exit code 1 and no answer"),
    ],
)
def test_one_that_dies_says_how(body, why, capfd):
    end = asked(body).wait()
    assert end.answer is None
    assert why in end.why


def test_a_signal_without_a_name():
    assert how_it_ended(-63) == "its process was ended by signal 63"


def test_one_that_cannot_read_its_question_says_so_too():
    large = OwnProcess([sys.executable, "-c", "import os; os._exit(5)"], {"text": "x" * 10**6})
    assert large.wait().why == "its process ended with exit code 5 and no answer"


def test_it_can_be_ended():
    process = asked("import time; time.sleep(60)")
    process.end()
    assert process._process.returncode == -signal.SIGKILL


def test_it_ends_when_whoever_asked_is_killed(tmp_path):
    """The child writes its id, then sleeps; the parent, which is killed, cannot tell it anything."""
    note = tmp_path / "child"
    body = f"import os, time, pathlib; pathlib.Path({str(note)!r}).write_text(str(os.getpid())); time.sleep(60)"
    parent = f"""
import sys
from softprompt.experiments.compare.own_process import OwnProcess
OwnProcess([sys.executable, "-c", {CHILD.format(body=body)!r}], {{"number": 1}}).wait()
"""
    process = subprocess.Popen([sys.executable, "-c", parent])
    _wait_until(lambda: note.exists() and note.read_text() != "")
    process.kill()
    process.wait()
    child = int(note.read_text())
    _wait_until(lambda: not _runs(child))


def _runs(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{number}/stat", encoding="ascii") as stat:  # a zombie that nobody collects has ended too
        return stat.read().rpartition(")")[2].split()[0] != "Z"


def _wait_until(so, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not so():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.02)
