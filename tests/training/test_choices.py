"""What is chosen by validation rows: which rows, by which figure, and what scores that are no numbers do to it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from softprompt.modeling.prompted_model import PromptedModel
from softprompt.tasks.load import load_task
from softprompt.testing.tiny import tiny_backbone
from softprompt.testing.toy import toy_rows
from softprompt.training.config import TrainConfig
from softprompt.training.learner import Learner, look
from softprompt.training.lesson import Lesson
from softprompt.training.race import Race, Rung
from softprompt.training.runs import RunFolder
from softprompt.training.selection import Seen, survivors
from softprompt.training.trainer import Trainer

BASE = {
    "steps": 12, "batch_size": 4, "virtual_tokens": 2, "validate_every": 4, "parameterization": "direct",
    "learned_rows": False, "init": "random", "extend": 0, "learning_rate": 0.01,
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return PromptedModel(tiny_backbone("llama"))


@pytest.fixture(scope="module")
def task():
    return load_task({"train": toy_rows(60), "validation": toy_rows(240, 1), "test": toy_rows(20, 2)}, name="toy")


def lesson(task, name="one", validation=None, **settings):
    rows = task.rows("validation") if validation is None else validation
    config = TrainConfig(**{**BASE, **settings})
    return Lesson(name, config, task.template, task.readout, task.rows("train"), rows)


def seen(loss, f1, rows=50):
    return Seen(torch.full((rows,), -loss), {"loss": loss, "accuracy": f1, "macro-f1": f1})


def test_a_rung_judges_rows_of_every_label_though_the_file_is_sorted(model, task, monkeypatch):
    ordered = sorted(task.rows("validation"), key=lambda row: str(row.label))
    label_of = {row.fields["text"]: str(row.label) for row in ordered}
    learner, scored, score = (
        Learner(model, lesson(task, validation=ordered, validation_rows=200)),
        [],
        model.score_labels,
    )
    monkeypatch.setattr(model, "score_labels", lambda rows, bound: scored.extend(rows) or score(rows, bound))
    look(model, learner, 60)
    labels = [label_of[row["text"]] for row in scored]
    assert len(labels) == 60
    assert min(labels.count(label) for label in set(label_of.values())) > 10


@pytest.mark.parametrize(("select", "step"), [("loss", 12), ("macro-f1", 4)])
def test_the_figure_that_is_asked_for_chooses(model, task, select, step):
    learner = Learner(model, lesson(task, select=select))
    for at, figures in ((4, seen(0.60, 0.9)), (8, seen(0.59, 0.7)), (12, seen(0.58, 0.5))):
        learner.state.step = at
        learner.see(figures)
    assert learner.fit(0.0).step == step


@pytest.mark.parametrize("steps", [12, 14, 260])
def test_a_run_goes_on_where_its_last_third_took_a_twentieth_off_the_loss(model, task, steps):
    def ended(losses):
        learner = Learner(model, lesson(task, steps=steps, extend=1, validate_every=50))
        looked = []
        for at in range(1, steps + 1):
            learner.state.step = at
            if learner.looks:
                looked.append(at)
                learner.see(seen(losses[0] if at <= 2 * steps // 3 else losses[1], 0.5))
        assert 2 * steps // 3 in looked
        return learner.goes_on(), learner.state.until

    assert ended((0.5, 0.4)) == (True, 3 * steps)
    assert ended((0.5, 0.49)) == (False, steps)
    assert ended((0.5, 0.5)) == (False, steps)


def test_scores_that_are_no_numbers_neither_win_nor_stay():
    good, broken = torch.full((40,), -0.5), torch.full((40,), -1.0)
    broken[3] = float("nan")
    table = torch.stack([good, broken])
    default, better = Seen.by_loss(table[1]), Seen.by_loss(table[0])
    assert survivors([default.terms, better.terms], 1) == [1]
    assert better.better_than(default.figures, "loss")
    assert not default.better_than(better.figures, "loss")
    probabilities = torch.log_softmax(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), dim=-1)
    probabilities[1] = float("nan")
    assert Seen.of(probabilities, torch.tensor([0, 1])).terms.isfinite().all()


def test_a_default_that_has_left_gives_nobody_its_privilege():
    race = Race([Rung(1, 1, 10)])
    close = {"a": torch.full((9,), -1.0), "b": torch.tensor([-0.7, -1.25] * 4 + [-0.7])}
    seen_of = [Seen.by_loss(terms) for terms in close.values()]
    assert race.judge(race.rungs[0], [*close], seen_of, default="a") == {"a"}
    assert race.judge(race.rungs[0], [*close], seen_of, default="gone") == {"b"}


def test_a_fold_that_is_not_finite_takes_its_candidate_along(model, task, tmp_path, monkeypatch):
    members = [
        replace(lesson(task, f"{name}/{fold}", validation=task.rows("validation")[: 6 + 3 * fold]), candidate=name)
        for name in ("default", "other") for fold in range(2)
    ]  # fmt: skip
    race = Race([Rung(2, 1, 20)], ends=True)
    folder = RunFolder(tmp_path)
    folder.begin({}, resume=False)
    trainer = Trainer(model, members, folder, race)
    monkeypatch.setattr(trainer.learners[0], "learn", lambda share, learned: None)
    fits = trainer.fit()
    assert [fit.steps for fit in fits] == [0, 1, 2, 2]
    assert "another fold of it was not finite at step 1" in fits[1].stopped
    assert race.winner == "other"
