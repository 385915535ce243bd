"""The journal of a sweep: mended after a kill, and the same suggestions however often it is opened."""

from __future__ import annotations

import pytest

pytest.importorskip("optuna", reason="sweeps need the `search` extra")

from softprompt.experiments.sweep_journal import TrialJournal
from softprompt.experiments.sweep_space import Space

SPACE = Space.read({"learning_rate": "log:0.003:0.1", "virtual_tokens": "int:1:60", "init": ["text", "random"]})


def suggestions(path, reopened, seed=0, count=14):
    found, journal = [], TrialJournal(path, SPACE, seed)
    for _ in range(count):
        journal = TrialJournal(path, SPACE, seed) if reopened else journal
        number = journal.ask()
        found.append(journal.settings(number))
        journal.tell(number, found[-1]["learning_rate"])
    return found


def test_suggestions_depend_on_the_seed_and_not_on_interruptions(tmp_path):
    calm = suggestions(tmp_path / "a.log", reopened=False)
    assert suggestions(tmp_path / "b.log", reopened=True) == calm
    assert suggestions(tmp_path / "c.log", reopened=False, seed=1) != calm
    assert len({str(each) for each in calm}) == 14
    assert all(isinstance(each["virtual_tokens"], int) for each in calm)


@pytest.mark.parametrize("torn", [b'{"op_code":', b'{"op_code":5,"worker_id":"x"}'])
def test_a_line_that_a_kill_left_unfinished_is_cut_off(tmp_path, torn):
    path = tmp_path / "journal.log"
    journal = TrialJournal(path, SPACE, 0)
    journal.tell(journal.ask(), 0.5)
    with path.open("ab") as stream:
        stream.write(torn)
    other = TrialJournal(path, SPACE, 0)
    other.tell(other.ask(), 0.25)
    assert [state.name for state in TrialJournal(path, SPACE, 0).begun().values()] == ["COMPLETE", "COMPLETE"]
    assert [state.name for state in journal.begun().values()] == ["COMPLETE", "COMPLETE"]
    assert torn + b"\n" not in path.read_bytes()


def test_a_trial_killed_before_it_had_settings_is_no_trial(tmp_path):
    journal = TrialJournal(tmp_path / "journal.log", SPACE, 0)
    journal._study.ask()  # what a kill in the middle of `ask` leaves behind
    assert journal.running() == ()
    assert journal.begun() == {}
    expected = suggestions(tmp_path / "other.log", reopened=False, count=1)
    number = journal.ask()
    assert (number, journal.settings(number)) == (1, expected[0])
    assert journal.running() == (1,)
    journal.fail(1)
    assert [state.name for state in journal.begun().values()] == ["FAIL"]


def test_what_two_processes_tell_of_one_trial_counts_once(tmp_path):
    """The second has taken it up in good faith: the first told, and let go, behind its back."""
    path = tmp_path / "journal.log"
    one, two = TrialJournal(path, SPACE, 0), TrialJournal(path, SPACE, 0)
    for number in (one.ask(), one.ask()):
        assert number in two.running()
    one.tell(0, 0.5)
    two.tell(0, 0.5)
    one.fail(1)
    two.fail(1)
    two.tell(1, 0.5)
    assert [state.name for state in two.begun().values()] == ["COMPLETE", "FAIL"]
