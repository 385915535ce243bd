"""Measures of every kind of task: equal to the libraries that papers cite, with intervals and paired differences."""

import random
import sys

import numpy as np
import pytest

from softprompt.errors import DataError, MissingExtraError, UnknownNameError
from softprompt.evaluation.extracted import exact_match, normalized, token_f1
from softprompt.evaluation.measures import Measures, compare_answers, measure_answers
from softprompt.evaluation.spans import Span, span_table, spans_of
from softprompt.evaluation.statistics import value_of, weighted_difference, weighted_interval
from softprompt.tasks.task import Example

WORDS = ["the", "a", "cat", "dog", "sat", "on", "mat", ",", ".", "blue", "it", "is", "Coffee", "shop", "ünder"]


def rows(labels):
    return [Example({"text": str(i)}, label) for i, label in enumerate(labels)]


def values(kind, gold, found):
    return {measure.name: measure.value for measure in measure_answers(kind, gold, found).measures}


def drawn_sets(rng, count):
    return [tuple(sorted(rng.sample("abcd", rng.randint(0, 3)))) for _ in range(count)]


def test_sets_of_labels_are_scikit_learns():
    from sklearn.metrics import f1_score

    rng = random.Random(0)
    gold, found = drawn_sets(rng, 60), drawn_sets(rng, 60)
    one, two = (np.array([[label in each for label in "abcd"] for each in sets]) for sets in (gold, found))
    assert values("multi-label", rows(gold), found) == pytest.approx(
        {
            "micro-F1": f1_score(one, two, average="micro"),
            "macro-F1": f1_score(one, two, average="macro"),
            "subset accuracy": np.mean([a == b for a, b in zip(gold, found, strict=True)]),
        }
    )


def test_sets_with_nothing_in_them_are_defined():
    assert values("multi-label", rows([(), ()]), [(), ()]) == {"micro-F1": 0, "macro-F1": 0, "subset accuracy": 1}


def test_numbers_are_scipys():
    from scipy.stats import pearsonr, spearmanr

    rng = random.Random(0)
    gold = [round(rng.random() * 5, 1) for _ in range(80)]  # with ties
    found = [round(x + rng.gauss(0, 1), 1) for x in gold]
    off = np.subtract(gold, found)
    assert values("regression", rows(gold), found) == pytest.approx(
        {
            "MAE": np.abs(off).mean(),
            "RMSE": np.sqrt((off**2).mean()),
            "Pearson": pearsonr(gold, found)[0],
            "Spearman": spearmanr(gold, found)[0],
        }
    )


def test_ranks_are_taken_anew_in_a_resample():
    from scipy.stats import spearmanr

    from softprompt.evaluation.regression import statistics_of

    gold, found = [3.0, 1.0, 2.0, 2.0, 5.0], [1.0, 1.0, 4.0, 2.0, 3.0]
    weights = np.array([[2.0, 0.0, 1.0, 3.0, 1.0]])
    repeated = [np.repeat(side, [2, 0, 1, 3, 1]) for side in (gold, found)]
    spearman = statistics_of(rows(gold), found)[-1]
    assert spearman.of_weights(weights)[0] == pytest.approx(spearmanr(*repeated)[0])


def test_a_constant_has_no_correlation():
    found = values("regression", rows([0.1, 0.2, 0.3]), [0.7, 0.7, 0.7])
    assert (found["Pearson"], found["Spearman"]) == (0, 0)


def drawn_texts(rng, count):
    accepted = [
        [" ".join(rng.choices(WORDS, k=rng.randint(1, 12))) for _ in range(rng.randint(1, 4))] for _ in range(count)
    ]
    texts = [" ".join(w if rng.random() < 0.8 else rng.choice(WORDS) for w in each[0].split()) for each in accepted]
    return [Example({"input": ""}, each[0], tuple(each)) for each in accepted], ["", *texts[1:]]


@pytest.mark.parametrize("count", [1, 2, 3, 60])
def test_generated_text_is_sacrebleus_and_rouge_scores(count):
    metrics = pytest.importorskip("sacrebleu.metrics")
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    for seed in range(3):
        gold, texts = drawn_texts(random.Random(seed), count)
        most = max(len(row.references) for row in gold)
        streams = [[(row.references + (None,) * most)[k] for row in gold] for k in range(most)]
        ascii_only = [[r.replace("ü", "u") for r in row.references] for row in gold]
        pairs = zip(ascii_only, texts, strict=True)
        rouge = [scorer.score_multi(each, text.replace("ü", "u"))["rougeL"].fmeasure for each, text in pairs]
        found = values("generation", gold, texts)
        assert {**found, **values("extraction", gold, texts)} == found
        assert {name: found[name] for name in ("BLEU", "chrF", "ROUGE-L")} == pytest.approx(
            {
                "BLEU": metrics.BLEU().corpus_score(texts, streams).score,
                "chrF": metrics.CHRF().corpus_score(texts, streams).score,
                "ROUGE-L": np.mean(rouge),
            }
        )


def test_signatures_tell_how_many_references():
    pytest.importorskip("sacrebleu")
    from softprompt.evaluation.generated import signatures

    two, one = Example({}, "x", ("x", "y")), Example({}, "x")
    assert "nrefs:2|" in signatures([two])[0]
    assert "nrefs:var|" in signatures([two, one])[1]


@pytest.mark.parametrize(
    ("module", "package"), [("sacrebleu.metrics", "sacrebleu"), ("rouge_score.rouge_scorer", "rouge-score")]
)
def test_a_missing_library_names_its_extra(monkeypatch, module, package):
    pytest.importorskip("sacrebleu")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"needs the `{package}` package; .*softprompt\[text-metrics\]"):
        measure_answers("generation", rows(["a"]), ["a"])


def test_short_answers_are_compared_as_squad_does():
    assert normalized("The Eiffel-Tower,  an  icon") == "eiffeltower icon"
    assert (exact_match("Ulm.", "the ulm"), exact_match("", "Ulm")) == (1, 0)
    assert token_f1("in old Ulm", "Ulm town") == pytest.approx(2 / 5)
    assert (token_f1("", "the"), token_f1("x", "")) == (1, 0)
    gold = [Example({}, "Ulm", ("Ulm", "in Ulm")), Example({}, "")]
    assert values("extraction", gold, ["in Ulm", "x"]) == {"F1": 0.5, "exact match": 0.5}


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("O O", []),
        ("I-A I-A", [("A", 0, 2)]),
        ("B-A I-B I-B", [("A", 0, 1), ("B", 1, 3)]),
        ("B-A B-A I-A O I-A", [("A", 0, 1), ("A", 1, 3), ("A", 4, 5)]),
        ("B-A E-A I-A", [("A", 0, 2), ("A", 2, 3)]),
        ("S-A I-A O", [("A", 0, 1), ("A", 1, 2)]),
    ],
)
def test_spans_follow_the_conll_rule(tags, spans):
    assert spans_of(tags.split()) == tuple(Span(*span) for span in spans)


def test_entity_figures_of_a_known_case():
    gold = rows([("B-PER", "I-PER", "O", "B-LOC"), ("B-ORG", "O")])
    found = [("B-PER", "I-PER", "O", "B-PER"), ("B-ORG", "I-ORG")]
    measured = values("tagging", gold, found)
    assert measured == pytest.approx(
        {"entity F1": 1 / 3, "entity precision": 1 / 3, "entity recall": 1 / 3, "accuracy of words": 4 / 6}
    )
    table = {row.label: (row.precision, row.recall, row.support) for row in span_table(gold, found)}
    assert table == {"LOC": (None, 0, 1), "ORG": (0, 0, 1), "PER": (0.5, 1, 1)}


def test_tags_that_write_no_spans_have_accuracy_alone():
    assert values("tagging", rows([("NOUN", "VERB")]), [("NOUN", "NOUN")]) == {"accuracy of words": 0.5}
    with pytest.raises(DataError, match="row 1 has 2 words and the answer 1 tags; tag each word"):
        measure_answers("tagging", rows([("O", "O")]), [("O",)])


def test_intervals_hold_the_value_and_depend_on_the_seed():
    rng = random.Random(0)
    gold, found = drawn_sets(rng, 50), drawn_sets(rng, 50)
    first, again, other = (measure_answers("multi-label", rows(gold), found, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    for measure in first.measures:
        assert measure.interval.low < measure.value < measure.interval.high
    assert first.headline.name == "micro-F1"
    assert Measures.from_json(first.to_json()) == first


def test_the_interval_of_a_mean_is_the_ordinary_bootstraps():
    values_ = np.random.default_rng(0).normal(size=400)
    interval = weighted_interval(lambda w: w @ values_ / w.sum(axis=1), 400)
    half = 1.96 * values_.std() / 20
    assert interval.low == pytest.approx(values_.mean() - half, abs=0.02)
    assert interval.high == pytest.approx(values_.mean() + half, abs=0.02)


def test_differences_are_paired_and_positive_where_ours_is_better():
    gold = rows([float(i) for i in range(40)])
    near, far = [row.label + 0.1 for row in gold], [row.label + 1.0 for row in gold]
    difference = compare_answers("regression", gold, near, far)
    assert (difference.value, difference.outcome) == (pytest.approx(0.9), "better")
    assert difference.interval.high - difference.interval.low < 1e-9  # every row differs by the same
    assert compare_answers("regression", gold, far, near).outcome == "worse"
    same = weighted_difference(lambda w: w[:, 0], lambda w: w[:, 0], 3)
    assert (same.value, same.outcome) == (0, "even")
    assert value_of(lambda w: w.sum(axis=1), 3) == 3


@pytest.mark.parametrize(
    ("kind", "gold", "found", "error", "message"),
    [
        ("regression", [], [], DataError, "0 rows and 0 answers; give at least one row, and each its answer"),
        ("regression", [1.0], [], DataError, "1 rows and 0 answers"),
        ("regression", [1.0], ["x"], DataError, "the answer of row 1 is `x`, not a number"),
        ("regression", ["x"], [1.0], DataError, "the right answer of row 1 is `x`, not a number"),
        ("classification", ["x"], ["x"], UnknownNameError, "unknown kind of task `classification`"),
    ],
)
def test_what_cannot_be_measured_is_said(kind, gold, found, error, message):
    with pytest.raises(error, match=message):
        measure_answers(kind, rows(gold), found)
