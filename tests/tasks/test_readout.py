"""Label words: chosen from names in any language, refused where they cannot tell labels apart."""

import pytest

from softprompt.errors import ConfigError, DataError, UnknownNameError
from softprompt.tasks.readout import LabelWords


def test_words_come_from_the_names_in_any_language():
    readout = LabelWords.from_labels(["card_arrival", "negativo", "否定"])
    assert readout.words == (" card arrival", " negativo", " 否定")


def test_given_words_take_the_place_of_names():
    readout = LabelWords.from_labels(["0", "1"], {"1": "yes"}, leading_space=False)
    assert readout.words == ("0", "yes")


def test_words_for_an_unknown_label_offer_the_nearest():
    with pytest.raises(UnknownNameError, match="unknown label `negatve`; did you mean `negative`"):
        LabelWords.from_labels(["negative", "positive"], {"negatve": "bad"})


def test_two_labels_with_the_same_words_are_refused():
    with pytest.raises(DataError, match="the labels `a_b` and `a b` have the same words `a b`"):
        LabelWords.from_labels(["a_b", "a b"])


def test_one_label_is_refused():
    with pytest.raises(DataError, match=r"found 1 label\(s\)"):
        LabelWords.from_labels(["only"])


def test_a_label_without_words_is_refused():
    with pytest.raises(DataError, match="the label `a` has no words"):
        LabelWords.from_labels(["a", "b"], {"a": "  "})


def test_unknown_scoring_is_refused():
    with pytest.raises(UnknownNameError, match="unknown scoring `tree`; did you mean `trie`"):
        LabelWords(("a", "b"), (" a", " b"), "tree")


def test_counts_must_agree():
    with pytest.raises(ConfigError, match="2 labels and 1 words"):
        LabelWords(("a", "b"), (" a",))


def test_index_offers_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean `spam`"):
        LabelWords.from_labels(["ham", "spam"]).index("spma")


def test_json_round_trip():
    readout = LabelWords.from_labels(["ham", "spam"], scoring="full")
    assert LabelWords.from_json(readout.to_json()) == readout
