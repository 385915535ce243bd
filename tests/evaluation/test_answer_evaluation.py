"""Answers that are not one label: what is kept of them, their rivals, and their report."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest

from softprompt.errors import BackboneError, DataError, MissingExtraError, TemplateError, UnsupportedBackboneError
from softprompt.evaluation import measures
from softprompt.evaluation.answer_evaluation import AnswerEvaluation, pooled
from softprompt.evaluation.answer_references import (
    commonest,
    linear_probes,
    no_probe,
    ridge_probe,
    run_answer_references,
    word_probe,
)
from softprompt.evaluation.calibration import Temperature, fit_answer_temperature
from softprompt.evaluation.evaluate import _finite
from softprompt.evaluation.evaluation import Evaluation
from softprompt.evaluation.figures import Trained, Variant
from softprompt.evaluation.references import Reference, Rows, run_references
from softprompt.evaluation.report import ReportCard, report_card
from softprompt.evaluation.ridge import PENALTIES, fit_ridge
from softprompt.evaluation.sources import Answering, Passes, stateful
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.tasks.free_text import Text
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.readout_kinds import Scalar, YesNo
from softprompt.tasks.tags import TokenTags
from softprompt.tasks.task import Example
from softprompt.tasks.template import Template
from softprompt.testing.tiny import tiny_backbone

TAGS = ("B-Q", "I-Q", "O")


def rows(labels, **more):
    return [Example({"text": f"row {i}"}, label, **more) for i, label in enumerate(labels)]


def numbers(count, start=0):
    return rows([float((i * 7 + start) % 11) for i in range(count)])


def judged(kind, gold, answers, **more):
    return AnswerEvaluation.of(kind, rows(gold), answers, **more)


@pytest.mark.parametrize(
    ("kind", "gold", "answers"),
    [
        ("multi-label", [("a", "b"), (), ("b",)], [("a",), (), ("a", "b")]),
        ("regression", [1.0, 2.5, 4.0], [1.5, 2.0, 4.0]),
        ("tagging", [("B-Q", "O"), ("O",), ("B-Q",)], [("B-Q", "O"), ("B-Q",), ("O",)]),
        ("extraction", ["a film", "", "plot"], ["film", "", "story"]),
    ],
)
def test_answers_come_back_from_json_with_the_same_figures(kind, gold, answers):
    found = judged(kind, gold, answers, overlap=(1,), truncated=2, seconds=1.5, digest="d")
    again = AnswerEvaluation.from_json(json.loads(json.dumps(found.to_json())))
    assert again.to_json() == found.to_json()
    assert again.figures(seed=3) == found.figures(seed=3)
    assert found.figures().kind == kind
    assert found.without_overlap().answers == (answers[0], answers[2])
    assert judged(kind, gold, answers, overlap=(0, 1, 2)).without_overlap() is None
    folds = [judged(kind, gold, answers, overlap=(1,)), judged(kind, gold, answers, overlap=(2,))]
    whole = AnswerEvaluation.pooled(folds)
    assert (len(whole.gold), whole.overlap) == (6, (1, 5))
    assert [m.value for m in whole.figures().measures] == pytest.approx([m.value for m in found.figures().measures])


def test_the_table_of_labels_and_of_spans():
    sets = judged("multi-label", [("a", "b"), ("b",)], [("a",), ("a", "b")])
    assert [(row.label, row.precision, row.recall, row.support) for row in sets.class_table()] == [
        ("a", 0.5, 1.0, 1),
        ("b", 1.0, 0.5, 2),
    ]
    tags = judged("tagging", [("B-Q", "O")], [("B-Q", "B-P")])
    assert [(row.label, row.precision) for row in tags.class_table()] == [("P", 0.0), ("Q", 1.0)]
    assert judged("tagging", [("NOUN",)], [("VERB",)]).class_table() == ()
    assert judged("regression", [1.0], [1.0]).class_table() == ()


def test_what_is_no_evaluation_is_refused():
    with pytest.raises(DataError, match="2 answers to 1 rows; give each row its answer"):
        judged("regression", [1.0], [1.0, 2.0])
    with pytest.raises(DataError, match="row 1 of 1 has no answer; evaluation needs the right answer of each row"):
        AnswerEvaluation.of("regression", [Example({})], [1.0])
    with pytest.raises(DataError, match="cannot read this JSON as an AnswerEvaluation: 'gold'; give what `to_json`"):
        AnswerEvaluation.from_json({"kind": "regression"})
    labels = Evaluation(("a", "b"), np.array([0]), np.log([[0.5, 0.5]]))
    assert pooled([labels, labels]).labels == ("a", "b")
    with pytest.raises(DataError, match="asked to pool 2 evaluations of several kinds of task; give folds of one"):
        pooled([labels, judged("regression", [1.0], [1.0])])
    with pytest.raises(BackboneError, match="row 3 scored NaN or infinity; check the prompt for values"):
        _finite(__import__("torch").tensor([float("nan")]), 3)


def test_text_is_measured_as_short_answers_where_its_libraries_are_missing(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(measures, "find_spec", lambda name: None if name == "sacrebleu" else find("json"))
    found = judged("generation", ["a film", "b"], ["film", "c"])
    figures = found.figures()
    assert [(m.name, m.value) for m in figures.measures] == [("F1", 0.5), ("exact match", 0.5)]
    assert figures.note == (
        "BLEU, chrF and ROUGE-L were not measured: they need `sacrebleu`; install with "
        'pip install "softprompt[text-metrics]"'
    )
    assert found.against(judged("generation", ["a film", "b"], ["x", "y"])).value == 0.5
    assert "they need `sacrebleu`" in " ".join(str(report_card(found, [], Trained(task="t"))).split())


def test_the_commonest_answer_is_that_of_train():
    some = rows(["x"] * 3)
    assert commonest("regression", rows([1.0, 2.0, 6.0]))(some) == [3.0] * 3
    assert commonest("multi-label", rows([("a",), ("a", "b"), ("b", "c"), ("b",)]))(some) == [("a", "b")] * 3
    assert commonest("generation", rows(["yes", "no", "yes"]))(some) == ["yes"] * 3
    assert commonest("tagging", rows([("O", "O", "B-Q")]))(rows([("B-Q", "O")])) == [("O", "O")]


def telling(found):
    return np.array([[row.label, 0.5] for row in found], dtype=np.float32)


def silent(found):
    return np.random.default_rng(0).normal(size=(len(found), 2)).astype(np.float32)


def missing(found):
    raise MissingExtraError("the sentence encoder is not installed")


def test_ridge_is_scikit_learns_and_its_penalty_is_chosen_on_unseen_rows():
    from sklearn.linear_model import Ridge

    generator = np.random.default_rng(0)
    x, noise = generator.normal(size=(300, 8)), generator.normal(size=300)
    y = x @ np.arange(8) + noise
    found, error = fit_ridge(x[:80], y[:80], x[80:], y[80:])
    standard = (x[:80] - x[:80].mean(0)) / x[:80].std(0)
    theirs = Ridge(alpha=found.penalty).fit(standard, y[:80])
    assert found.weights == pytest.approx(theirs.coef_, rel=1e-6)
    assert error == pytest.approx(((found.predict(x[80:]) - y[80:]) ** 2).mean())
    assert found.penalty in PENALTIES
    few, _ = fit_ridge(x[:80], noise[:80], x[80:100], noise[80:100])
    assert few.penalty > found.penalty  # nothing to learn: hold everything back
    assert fit_ridge(x[:1], y[:1], x[:0], y[:0])[1] == float("inf")


@pytest.mark.parametrize("order", [1, -1])
def test_the_ridge_probe_stands_on_the_better_features_and_answers_within_train(order):
    data = Rows((), numbers(60), numbers(30, 3), rows([0.0, 5.0, 40.0]), overlap=(1,))
    features = [("hidden states", silent), ("sentence embeddings", telling), ("more", missing)]
    found = ridge_probe(data, features[::order])
    assert found.name == "ridge probe"
    assert found.note.startswith("on sentence embeddings; mean squared error where its penalty was chosen: ")
    assert "not run on more: the sentence encoder is not installed" in found.note
    assert found.evaluation.answers == pytest.approx((0.0, 5.0, 10.0), abs=0.1)
    assert found.evaluation.overlap == (1,)
    assert ridge_probe(data, []).note == "no features were given"


def test_the_linear_probe_of_several_labels_tells_each_by_itself():
    def features(found):
        return np.array([[len(row.labels) > 0, "b" in row.labels] for row in found], dtype=np.float32)

    sets = [("a",), ("a", "b"), (), ("a", "b")] * 20
    data = Rows(("a", "b"), rows(sets), rows(sets), rows(sets[:4]))
    found = linear_probes(data, [("hidden states", features)])
    assert found.evaluation.answers == (("a",), ("a", "b"), (), ("a", "b"))


def test_the_word_probe_learns_from_at_most_so_many_words_and_fills_up_what_was_cut():
    tags = [("O", "B-Q", "I-Q"), ("B-Q", "O", "O")] * 20

    def describe(found):
        return [np.eye(3)[[TAGS.index(tag) for tag in row.labels[:2]]] for row in found]  # room for two words

    data = Rows(TAGS, rows(tags), rows(tags), rows(tags[:2]))
    found = word_probe(data, "hidden states", describe, 12)
    assert found.note == "on hidden states at the end of each word, learned from 8 words"
    assert found.evaluation.answers == (("O", "B-Q", "O"), ("B-Q", "O", "O"))


def test_rivals_are_run_in_order_and_what_cannot_be_is_said():
    data = Rows((), numbers(20), numbers(10), numbers(5))

    def refused(examples):
        raise TemplateError("the words begin with the same token")

    found = run_answer_references(
        "regression",
        data,
        zero_shot=lambda examples: [0.0] * len(examples),
        hard_text=refused,
        probe=lambda: no_probe("no reason"),
    )
    assert [each.name for each in found] == ["mean of train", "zero-shot", "hard text", "linear probe"]
    assert (found[2].evaluation, found[2].note) == (None, "the words begin with the same token")
    assert (found[3].evaluation, found[3].note) == (None, "no reason")


def card(ours, *rivals, kind="regression", gold=(1.0, 2.0, 3.0, 4.0), **more):
    references = [Reference(name, judged(kind, gold, answers)) for name, answers in rivals]
    return report_card(judged(kind, gold, ours), references, Trained(task="films"), **more)


def test_a_loss_in_the_headline_is_the_first_line_and_less_error_is_better():
    near, far, near_too = [1.1, 2.1, 3.1, 4.1], [2.0, 3.5, 4.0, 6.0], [1.1, 2.1, 3.1, 4.2]
    lost = card(far, ("ridge probe", near), ("zero-shot", [9.0] * 4))
    assert lost.verdict[0].startswith("LOSS to the ridge probe: 1.38 against 0.1 MAE, -1.27 to the better, 95 % ")
    assert lost.verdict[1].startswith("Better in MAE than zero-shot (+")
    even = card(near, ("ridge probe", near), ("zero-shot", near_too))
    assert even.verdict[0].startswith("The ridge probe is as good: 0.1 against 0.1 MAE, ")
    assert even.verdict[0].endswith("; the interval includes 0.")
    behind = card(near_too, ("zero-shot", far), ("ridge probe", near))
    assert behind.verdict[0].startswith("The ridge probe is as good, and ahead on these rows: ")
    assert card(near).verdict == ()


def test_the_card_of_measures_prints_and_comes_back():
    variants = [Variant(name="prompt alone", note="not run: no head")]
    temperature = Temperature(value=1.5, fitted=True, rows=80, log_loss_before=0.7, log_loss_after=0.6)
    gold, answers = [("B-Q", "O"), ("O", "O")], [("B-Q", "O"), ("O", "B-Q")]
    found = card(
        answers,
        ("linear probe", gold),
        kind="tagging",
        gold=gold,
        variants=variants,
        temperature=temperature,
        validation=judged("tagging", gold, gold),
    )
    shown = str(found)
    assert "entity F1 %" in shown
    assert "prompt alone: not run: no head." in shown
    assert "validation, used for selection: entity F1 100.0 % (0.0-100.0) on 2 rows." in shown
    assert "Calibration: temperature 1.50 (fitted on 80 validation rows), log loss 0.700 there before and" in shown
    assert "label  precision %" in shown
    assert "right \\ predicted" not in shown
    assert str(ReportCard.from_json(json.loads(json.dumps(found.to_json())))) == shown


def test_references_on_other_rows_are_refused():
    with pytest.raises(DataError, match="the zero-shot was evaluated on 1 rows that are not the 4 rows of the prompt"):
        report_card(
            judged("regression", [1.0, 2.0, 3.0, 4.0], [0.0] * 4),
            [Reference("zero-shot", judged("regression", [1.0], [1.0]))],
            Trained(task="films"),
        )


def test_rows_that_stand_in_train_are_left_out_once():
    ours = judged("regression", [1.0, 2.0, 3.0], [1.0, 2.0, 5.0], overlap=(0,))
    rival = Reference("zero-shot", judged("regression", [1.0, 2.0, 3.0], [4.0, 2.0, 3.0], overlap=(0,)))
    found = report_card(ours, [rival], Trained(task="films"))
    assert found.without_overlap.headline.value == pytest.approx(1.0)
    assert found.rivals[0].without_overlap.headline.value == 0
    assert "Warning: 1 of these rows also stand in train. Without them, on 2 rows:" in str(found)


def test_temperatures_of_words_and_of_decisions():
    generator = np.random.default_rng(0)
    tags = TokenTags.from_tags(TAGS, column="text")
    gold = [tuple(generator.choice(TAGS, 4)) for _ in range(80)]
    scores = []
    for each in gold:  # right in seven of ten, and far too sure of it
        said = [tag if generator.random() < 0.7 else generator.choice(TAGS) for tag in each]
        own = np.full((4, 3), -9.0)
        own[np.arange(4), [TAGS.index(tag) for tag in said]] = -0.001
        scores.append(own)
    found = fit_answer_temperature(judged("tagging", gold, gold, scores=scores), tags)
    assert found.fitted
    assert found.value > 3
    assert found.rows == 80
    yes = YesNo.from_labels(["a", "b"])
    sets = [tuple(x for x in ("a", "b") if generator.random() < 0.5) for _ in range(80)]
    sure = [np.array([-0.001 if generator.random() < 0.7 else -9.0 for _ in "ab"]) for _ in sets]
    assert fit_answer_temperature(judged("multi-label", sets, sets, scores=sure), yes).value > 3
    few = fit_answer_temperature(judged("multi-label", sets[:9], sets[:9], scores=sure[:9]), yes)
    assert few.reason == "9 validation rows are too few to fit one (50 are needed)"


def test_numbers_and_texts_have_no_temperature():
    found = fit_answer_temperature(judged("regression", [1.0], [1.0]), Scalar(0.0, 1.0))
    assert found.reason == "a number has no probability to calibrate"
    found = fit_answer_temperature(judged("generation", ["a"], ["a"]), Text(5))
    assert found.reason == "text has no probability of a choice to calibrate"


def test_states_of_words_are_those_that_tags_are_read_from():
    model = PromptedModel(tiny_backbone("gemma3"))
    readout, template = TokenTags.from_tags(TAGS, column="text"), Template("{bos}{soft}{text} again: {text}")
    answering = Answering(model, model.bare(template, readout), readout)
    found = rows([("O", "O"), ("O", "O")])
    states = answering.words(found)
    assert [len(each) for each in states] == [2, 2]
    assert answering.features(found) == pytest.approx(np.stack([each[-1] for each in states]), abs=1e-5)
    assert [len(tags) for tags in answering.answers(found)] == [2, 2]


def test_states_can_be_had_where_no_words_can_be_scored():
    model = PromptedModel(tiny_backbone("llama"))
    template, words, found = Template("{soft}{text}:"), LabelWords.from_labels(["bad", "good"]), rows(["bad", "good"])
    expected = Passes(model, model.bare(template, words)).features(found)
    silent = stateful(model, template, words)
    passes = Passes(model, silent, unsaid="`x` has no head that scores words")
    assert passes.features(found) == pytest.approx(expected, abs=1e-6)
    answering = Answering(model, silent, words, unsaid="`x` has no head that scores words")
    for scored in (passes.score, answering.answers):
        with pytest.raises(UnsupportedBackboneError, match="`x` has no head that scores words"):
            scored(found)


def test_a_rival_that_cannot_score_words_is_said_and_the_others_run():
    def refused(examples):
        raise UnsupportedBackboneError("`x` has no head that scores words")

    found = run_references(Rows(("a", "b"), rows("ab" * 9), rows("ab" * 9), rows("ab")), zero_shot=refused)
    assert (found[1].evaluation, found[1].note) == (None, "`x` has no head that scores words")
    assert found[0].evaluation.accuracy == 0.5
