"""Every kind of task end to end: trained, chosen, calibrated, reported, kept, resumed and answered with."""

from __future__ import annotations

import json

import pytest

from softprompt.errors import ConfigError, MissingExtraError, TemplateError
from softprompt.evaluation import sources
from softprompt.evaluation.answer_evaluation import AnswerEvaluation
from softprompt.evaluation.evaluate import evaluate
from softprompt.evaluation.evaluation import Evaluation
from softprompt.evaluation.figures import Figures, Measures
from softprompt.evaluation.report import ReportCard
from softprompt.modeling.answers import Answer, LabelSet, NumberAnswer, TagsAnswer, TextAnswer
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.tasks.load import load_task
from softprompt.testing.tiny import tiny_backbone
from softprompt.training.config import TrainConfig
from softprompt.training.learner import Learner, look
from softprompt.training.lesson import Lesson
from softprompt.training.runs import RunFolder
from softprompt.training.train import train

FAST = {"steps": 8, "batch_size": 6, "virtual_tokens": 3, "validate_every": 4, "race": False, "probe_rows": 40}
WORDS = ("good", "bad", "great", "dull", "warm", "worse")
CHAT = (
    "<s>{% for m in messages %}{{ m.role }}: {{ m.content }}{% if m.role == 'assistant' %}</s>{% endif %}{{ '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def row(kind, i):
    word, good = WORDS[i % 6], i % 2 == 0
    turns = [{"role": "user", "content": f"is {word} {i}?"}, {"role": "assistant", "content": "yes" if good else "no"}]
    return {
        "classification": {"text": f"{word} film {i}", "label": "pos" if good else "neg"},
        "multi-label": {"text": f"{word} film {i}", "labels": ["abc"[i % 3], *(["d"] if good else [])]},
        "regression": {"text": f"{word} film {i}", "score": i % 5 + 0.5},
        "choice": {"question": f"what {word} {i}?", "choices": ["film", "plot", "story"], "answer": "ABC"[i % 3]},
        "generation": {"input": f"say {word} {i}", "target": f"{word} film {i}"},
        "extraction": {"context": f"the {word} film {i}", "question": "what film?", "answers": [word, f"the {word}"]},
        "tagging": {"tokens": ["the", word, "film"], "tags": ["O", "B-Q", "I-Q" if good else "O"]},
        "chat": {"messages": turns},
    }[kind]


def splits(kind):
    rows = [row(kind, i) for i in range(44)]
    return {"train": rows[:24], "validation": rows[24:32], "test": rows[32:]}


ANSWERS = {
    "classification": Answer,
    "multi-label": LabelSet,
    "regression": NumberAnswer,
    "choice": Answer,
    "generation": TextAnswer,
    "extraction": TextAnswer,
    "tagging": TagsAnswer,
    "chat": TextAnswer,
}
PROBES = {"regression": "ridge probe"}


@pytest.fixture(scope="module")
def backbone():
    found = tiny_backbone("gemma3")
    found.tokenizer.chat_template = CHAT
    return found


@pytest.fixture(autouse=True)
def without_encoder(monkeypatch):
    def gone():
        raise MissingExtraError("the sentence encoder is not installed")

    monkeypatch.setattr(sources.SentenceEncoder, "packaged", gone)


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_kind_of_task_from_its_rows_to_its_answers(backbone, tmp_path, kind):
    task = load_task(splits(kind), name="films")  # the kind is told from the columns
    assert task.kind == kind
    settings = {**FAST, "steps": 20, "learning_rate": 0.1}
    result = train(backbone, task, run=tmp_path / "run", **settings)
    _learns(tmp_path / "run")
    _reports(result, kind)
    result.prompt.save(tmp_path / "kept.safetensors")
    kept = SoftPrompt.load(tmp_path / "kept.safetensors")
    assert kept.to_bytes() == result.prompt.to_bytes()
    _answers(backbone, kept, task, kind)
    again = train(backbone, task, run=tmp_path / "run", resume=True, **{**settings, "report": False})
    assert again.prompt.to_bytes() == result.prompt.to_bytes()


def _learns(folder):
    losses = [event["loss"] for event in RunFolder(folder).events() if event["event"] == "step"]
    assert sum(losses[-4:]) < sum(losses[:4])


def _reports(result, kind):
    report = result.report
    shown = str(report)
    labels = kind in ("classification", "choice")
    assert isinstance(report.figures, Figures if labels else Measures)
    assert report.figures.rows == 12
    names = [rival.name for rival in report.rivals]
    assert names[1:] == ["zero-shot", "hard text", PROBES.get(kind, "linear probe")]
    assert f"{len(result.prompt.to_bytes()):,} bytes" in shown
    if result.prompt.has_rows:
        (alone,) = report.variants
        assert (alone.name, alone.figures.rows) == ("prompt alone", 12)
        assert "prompt + learned rows " in shown
        assert "\nprompt alone " in shown
    else:
        assert report.variants == ()
        assert "The linear probe was not run: answers are text, which a linear model does not write." in flat(shown)
    assert "no temperature was fitted" in flat(shown)
    assert max(map(len, shown.splitlines())) <= 100
    assert str(ReportCard.from_json(json.loads(json.dumps(report.to_json())))) == shown


def _answers(backbone, prompt, task, kind):
    model, rows = PromptedModel(backbone), task.rows("test")
    judged = evaluate(model, prompt, rows)
    found = model.score([each.fields for each in rows], prompt)
    assert {type(answer) for answer in found} == {ANSWERS[kind]}
    if isinstance(judged, Evaluation):
        assert [answer.label for answer in found] == [judged.labels[i] for i in judged.predicted]
        return
    assert tuple(answer.value for answer in found) == judged.answers
    plain = AnswerEvaluation.from_json(json.loads(json.dumps(judged.to_json())))
    assert plain.figures() == judged.figures()


def flat(text):
    return " ".join(text.split())


@pytest.mark.parametrize("kind", ["multi-label", "regression", "tagging", "extraction"])
def test_a_few_rows_are_cross_fitted_whatever_their_kind(backbone, tmp_path, kind):
    task = load_task([row(kind, i) for i in range(30)], name="films", kind=kind)
    report = train(backbone, task, run=tmp_path, **{**FAST, "steps": 2}).report
    assert report.figures.rows == 30
    assert "Cross-fitted: each of the 30 rows was scored by a prompt that was trained without it." in str(report)
    assert [variant.figures.rows for variant in report.variants] == ([] if kind == "extraction" else [30])


def test_tags_and_several_labels_are_calibrated_where_rows_are_enough(backbone, tmp_path):
    for kind in ("tagging", "multi-label"):
        rows = [row(kind, i) for i in range(74)]
        task = load_task({"train": rows[:20], "validation": rows[20:], "test": rows[:4]}, name="films", kind=kind)
        result = train(backbone, task, run=tmp_path / kind, **{**FAST, "report": False})
        fitted = result.prompt.temperature
        assert 0.05 <= fitted <= 20
        assert fitted != 1


def test_an_ensemble_is_trained_beside_the_prompt_and_reported(backbone, tmp_path):
    task = load_task(splits("classification"), name="films")
    alone = train(backbone, task, run=tmp_path / "one", **{**FAST, "report": False})
    result = train(backbone, task, run=tmp_path / "three", ensemble=3, **FAST)
    assert [prompt.provenance["seed"] for prompt in result.members] == [0, 1, 2]
    assert len({prompt.digest for prompt in result.members}) == 3
    assert result.members[0].to_bytes() == result.prompt.to_bytes() == alone.prompt.to_bytes()
    joint = result.report.variants[-1]
    assert (joint.name, joint.figures.rows) == ("ensemble of 3", 12)
    assert "alone they have accuracy % " in joint.note
    assert "the best, chosen on these very rows, " in joint.note
    again = train(backbone, task, run=tmp_path / "three", resume=True, ensemble=3, **{**FAST, "report": False})
    assert [p.digest for p in again.members] == [p.digest for p in result.members]
    seeds = train(backbone, task, run=tmp_path / "seed", **{**FAST, "report": False, "seed": 1})
    assert seeds.prompt.tensors["readout.bias"].allclose(result.members[1].tensors["readout.bias"], atol=1e-4)


def test_an_ensemble_of_cross_fitted_rows_is_not_measured(backbone, tmp_path):
    task = load_task([row("classification", i) for i in range(30)], name="films")
    report = train(backbone, task, run=tmp_path, ensemble=2, **{**FAST, "steps": 2}).report
    assert report.variants[-1].figures is None
    assert "ensemble of 2: not measured: its members learned from all rows" in flat(str(report))


def test_texts_and_tags_have_no_ensemble(backbone, tmp_path):
    task = load_task(splits("tagging"), name="films")
    with pytest.raises(ConfigError, match="an ensemble of 2 was asked for, and `films` is tagging: answers of an"):
        train(backbone, task, run=tmp_path, ensemble=2, **FAST)


def test_an_abstain_threshold_is_for_one_label(backbone, tmp_path, capsys):
    task = load_task(splits("regression"), name="films")
    result = train(backbone, task, run=tmp_path, abstain_accuracy=0.9, **{**FAST, "steps": 1, "report": False})
    assert result.prompt.abstain is None
    assert "no abstain threshold: an answer is held back where it is one label, and here it is not" in (
        capsys.readouterr().err
    )


def test_the_race_is_told_in_the_report(backbone, tmp_path):
    rows = [row("classification", i) for i in range(260)]
    task = load_task({"train": rows[:20], "validation": rows[20:230], "test": rows[230:]}, name="films")
    report = train(backbone, task, run=tmp_path, **{**FAST, "race": True, "steps": 10}).report
    assert len({each.candidate for each in report.trained.race}) > 1
    assert sum(each.goes_on for each in report.trained.race if each.step == report.trained.race[-1].step) == 1
    shown = str(report)
    assert "the race, on validation rows" in shown
    assert "goes on" in shown


@pytest.mark.parametrize("count", [16, 100, 300])
def test_a_small_csv_gives_honest_figures_and_no_race(backbone, tmp_path, count):
    lines = [f"{WORDS[i % 6]} film {i},{'pos' if i % 2 else 'neg'}" for i in range(count)]
    (tmp_path / "films.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    result = train(backbone, load_task(tmp_path / "films.csv"), run=tmp_path / "run", **{**FAST, "race": True})
    assert result.report.figures.rows == count
    assert result.report.trained.cross_fitted
    assert result.report.trained.race == ()
    low, high = result.report.figures.accuracy_interval
    right = result.report.figures.accuracy
    assert low <= right <= high
    assert right in (0, 1) or high - low > 1 / count**0.5 * min(right, 1 - right) ** 0.5


def test_where_no_words_can_be_scored_the_report_says_so(tmp_path):
    task = load_task(splits("classification"), name="films")
    report = train(tiny_backbone("minilm"), task, run=tmp_path, **{**FAST, "steps": 2}).report
    by_name = {rival.name: rival for rival in report.rivals}
    for name in ("zero-shot", "hard text"):
        assert by_name[name].figures is None
        assert "has no head that scores words" in by_name[name].note
    assert by_name["linear probe"].figures.rows == 12
    (alone,) = report.variants
    assert (alone.figures, alone.note.startswith("not run: `tiny-minilm`")) == (None, True)


def test_words_that_do_not_fit_count_for_nothing(backbone):
    def films(count, first):
        return [{"tokens": ["film"] * (first if i == 0 else 4), "tags": ["A", "O"] * 2} for i in range(count)]

    for row in (rows := films(4, 2000)):
        row["tags"] = ["A", "O"] * (len(row["tokens"]) // 2)
    task = load_task({"train": rows, "validation": rows, "test": films(1, 4)}, name="films", kind="tagging")
    config = TrainConfig(virtual_tokens=3, parameterization="direct", batch_size=4, race=False)
    lesson = Lesson("a", config, task.template, task.readout, task.splits["train"], task.splits["validation"])
    learner = Learner(PromptedModel(backbone), lesson)
    share = learner.share(0)
    fitting = sum(len(row.ends) for row in share.rows)
    assert 12 < fitting < 300
    assert share.weights == [pytest.approx(1 / fitting)] * 4
    terms = look(PromptedModel(backbone), learner).terms
    assert float(terms.max() - terms.min()) < 0.5  # a mean over the words that were read


def test_a_long_conversation_is_learned_as_it_is_answered(backbone):
    talk = [{"role": "user", "content": "word " * 100}, {"role": "assistant", "content": "an answer of some words"}]
    rows = [{"messages": talk}] * 3
    task = load_task({"train": rows, "validation": rows, "test": rows}, name="talk")
    config = TrainConfig(virtual_tokens=3, parameterization="direct", batch_size=2, race=False)
    lesson = Lesson("a", config, task.template, task.readout, task.splits["train"], ())
    bound, model, example = (
        Learner(PromptedModel(backbone), lesson).bound(),
        PromptedModel(backbone),
        task.rows("train")[0],
    )
    row, _ = model.lesson(example, bound)
    used = model.encode(example.fields, bound)
    assert used.cut > 0
    assert row.ids[: row.spans[-1][0]] == used.ids


def test_answers_that_leave_no_room_are_said(tmp_path):
    rows = [{"input": f"say {i}", "target": "word " * 410 if i == 3 else "word"} for i in range(6)]
    task = load_task({"train": rows, "validation": rows[:2], "test": rows[:2]}, name="long", kind="generation")
    with pytest.raises(
        TemplateError, match=r"answers may take 102\d of the 1024 positions of `tiny-gpt2`.* be shorter"
    ):
        train(tiny_backbone("gpt2", n_positions=1024), task, run=tmp_path, report=False, **FAST)
