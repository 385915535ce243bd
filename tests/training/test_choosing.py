"""What may be asked for, what is tried, and what is left alone until that is known."""

import pytest
import torch

from softprompt.errors import ConfigError, TemplateError, UnknownNameError
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.tasks.load import load_task
from softprompt.tasks.task import Example
from softprompt.testing.toy import toy_rows
from softprompt.training import fitting
from softprompt.training.candidates import even_labels, field, settled
from softprompt.training.config import TrainConfig
from softprompt.training.learner import Learner
from softprompt.training.lesson import Lesson
from softprompt.training.many import train_many
from softprompt.training.race import Race
from softprompt.training.selection import Seen
from softprompt.training.train import train

FAST = {"steps": 2, "batch_size": 4, "virtual_tokens": 3, "report": False}


def default_of(task, backbone, **given):
    return settled(TrainConfig(**given), task.template, task.readout, backbone, task.rows("train"))


def names(task, backbone, **given):
    return [*field(TrainConfig(**given), default_of(task, backbone, **given))]


@pytest.fixture(scope="module")
def texts():
    rows = [{"input": row["text"], "target": row["label"]} for row in toy_rows(24)]
    return load_task({"train": rows, "validation": rows[:6], "test": rows[:6]}, name="texts", kind="generation")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"exportable": True, "parameterization": "deep"}, "exportable and parameterization=deep were both asked for"),
        ({"exportable": True, "parameterization": "deep-mlp"}, "exportable and parameterization=deep-mlp were both"),
        ({"exportable": True, "learned_rows": True}, "exportable and learned_rows were both asked for: PEFT and vLLM"),
        ({"budget": "1 h", "extend": 1}, "the budget is `1 h` and extend is 1: a run that goes on would leave its"),
    ],
)
def test_settings_that_contradict_each_other(task, backbone, given, text):
    with pytest.raises(ConfigError, match=text):
        default_of(task, backbone, **given)


def test_settings_that_do_not_contradict_each_other(task, backbone):
    exported = default_of(task, backbone, exportable=True, parameterization="residual", learned_rows=False)
    assert (exported.parameterization, exported.learned_rows) == ("residual", False)
    assert default_of(task, backbone, budget="1 h", extend=0).extend == 0


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"learned_rows": True}, "learned_rows was asked for, and the answers are text: learned rows stand for labels"),
        (
            {"select": "macro-f1"},
            "select is `macro-f1`, which needs answers that are one label each, and here they are",
        ),
        ({"class_weights": "balanced"}, "class_weights is `balanced`, which needs answers that are one label each, an"),
    ],
)
def test_settings_that_the_answers_have_no_use_for(task, texts, backbone, given, text):
    with pytest.raises(ConfigError, match=text):
        default_of(texts, backbone, **given)
    assert default_of(task, backbone, **given)


def test_a_text_to_start_from_is_not_given_up_for_labels(task, backbone):
    assert any("from labels" in name for name in names(task, backbone))
    assert not any("from labels" in name for name in names(task, backbone, init_text="my own words"))


def test_settings_of_a_parameterization_stay_with_it(task, backbone):
    assert {name.split(" ")[0].rstrip(",") for name in names(task, backbone)} == {"deep", "direct"}
    assert {name.split(" ")[0].rstrip(",") for name in names(task, backbone, settings={"frozen": 2})} == {"deep"}


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"parameterization": "depe"}, UnknownNameError, "unknown parameterization `depe`; did you mean `deep`"),
        ({"parameterization": "direct", "settings": {"rank": 3}}, UnknownNameError, "unknown setting of `direct`"),
        ({"virtual_tokens": 400}, TemplateError, "use fewer virtual tokens"),
        ({"init": "prompt"}, ConfigError, "init is `prompt` and no prompt was given"),
        ({"budget": "soon"}, ConfigError, "the budget is `soon`"),
    ],
)
def test_what_cannot_be_trained_leaves_a_finished_run_as_it_is(backbone, task, tmp_path, given, error, text):
    train(backbone, task, run=tmp_path, race=False, **FAST)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(error, match=text):
        train(backbone, task, run=tmp_path, race=False, **{**FAST, **given})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_bank_that_cannot_be_trained_leaves_a_finished_one_as_it_is(backbone, task, tmp_path):
    train_many(backbone, task, [TrainConfig(**FAST)], run=tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UnknownNameError, match="unknown parameterization `depe`"):
        train_many(backbone, task, [TrainConfig(**FAST), TrainConfig(**FAST, parameterization="depe")], run=tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_race_that_cannot_come_down_to_one_is_not_held_and_that_is_said(backbone, tmp_path, capsys):
    task = load_task({"train": toy_rows(24), "validation": toy_rows(220, 1), "test": toy_rows(4, 2)}, name="short")
    result = train(backbone, task, run=tmp_path, **{**FAST, "steps": 1})
    assert (result.prompt.provenance["race"], result.fit.steps) == ([], 1)
    assert "no race: 1 steps are too few to choose among " in capsys.readouterr().err
    train(backbone, task, run=tmp_path, race=False, **{**FAST, "steps": 1})
    assert "no race" not in capsys.readouterr().err


def test_rows_that_are_too_few_for_a_race_are_said_once(backbone, tmp_path, capsys):
    train(backbone, load_task(toy_rows(40), name="few"), run=tmp_path, **{**FAST, "report": True, "steps": 4})
    said = capsys.readouterr().err
    assert said.count("no race: 40 rows are fewer than the 500 that candidates can be told apart by") == 1


def test_a_temperature_is_fitted_on_so_many_rows_at_most(backbone, task, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "CALIBRATED_ON", 40)
    report = train(backbone, task, run=tmp_path, race=False, **{**FAST, "report": True, "test_rows": 10}).report
    assert report.validation.rows == report.temperature.rows == 40


def test_rare_labels_make_a_run_longer():
    def even(**counts):
        rows = [Example({}, label) for label, count in counts.items() for _ in range(count)]
        return even_labels([*counts], rows)

    assert even(a=50, b=50) == even(a=55, b=45) == 2, "which may be chance"
    assert even(a=84, b=16) == 100 / (16 + 4)
    assert even(a=99, b=1) == 8, "no rarer than a fourth of an even share"
    assert even(a=40, b=40, c=16, d=4) == 100 / (16 + 4), "four rows in a hundred do not count"
    assert even(a=40, b=40, c=15, d=5) == pytest.approx(100 / (5 + 5**0.5))
    assert even_labels(["a", "b"], [Example({}, "some text")] * 9) == 2
    assert even_labels([], [Example({}, "some text")] * 9) == 0


def test_a_bank_is_run_in_one_way(backbone, task, tmp_path):
    other = TrainConfig(**FAST, tokens_at_once=64)
    with pytest.raises(ConfigError, match="tokens_at_once is None for prompt 0 and 64 for prompt 1; a bank is run in"):
        train_many(backbone, task, [TrainConfig(**FAST), other], run=tmp_path)


def test_a_race_is_judged_on_enough_rows_however_few_are_looked_at(backbone, tmp_path):
    rows = {"train": toy_rows(24), "validation": toy_rows(420, 1), "test": toy_rows(4, 2)}
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Race, "judge", lambda self, rung, names, seen_, **_: seen.extend(len(s.terms) for s in seen_))
        with pytest.raises(TypeError):  # nobody goes on
            train(backbone, load_task(rows, name="short"), run=tmp_path, **{**FAST, "steps": 30, "validation_rows": 4})
    assert set(seen) == {200}


def test_what_a_rising_rate_undid_is_not_learned_twice(backbone, task):
    config = default_of(task, backbone, extend=2, steps=30)
    rows = load_task({"train": toy_rows(24), "validation": toy_rows(60, 1), "test": toy_rows(4, 2)}, name="x").splits
    lesson = Lesson("a", config, task.template, task.readout, rows["train"], rows["validation"])
    learner = Learner(PromptedModel(backbone), lesson)

    def see(step, loss):
        learner.state.step = step
        chance = torch.Generator().manual_seed(step)
        learner.see(Seen.by_loss(0.001 * torch.randn(60, generator=chance) - loss))

    see(20, 0.6)
    see(30, 0.4)
    assert learner.goes_on()
    for step, loss in ((50, 0.5), (70, 0.5), (90, 0.4)):
        see(step, loss)
    assert not learner.goes_on()
