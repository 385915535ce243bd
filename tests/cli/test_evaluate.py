"""`softprompt eval`: the right rows, the figures, and where they are kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from softprompt.cli.evaluate import choose_rows
from softprompt.store.store import PromptStore
from softprompt.tasks.load import load_task
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.template import Template

MAIL = "text,kind\nhello there,ham\nwin a prize,spam\nsee you,ham\nfree money,spam\n"


@pytest.fixture
def mail(tmp_path):
    path = tmp_path / "mail.csv"
    path.write_text(MAIL)
    return path


def test_figures_are_printed_and_kept_beside_the_prompt(call, kept, mail):
    result = call("eval", "spam", mail)
    assert result.exit_code == 0, result.output
    assert "all 4 rows of " in result.stderr
    assert "whether training saw some of them is not known" in result.stderr
    for part in ("4 rows in ", "accuracy %", "macro-F1 %", "MCC", "ECE", "precision %", "right \\ predicted"):
        assert part in result.stdout
    ((name, saved),) = kept.evaluations(kept.resolve("spam")).items()
    assert name.endswith("mail.csv.test")
    assert saved["figures"]["rows"] == 4


def test_json_has_every_figure(ok, kept, mail):
    told = json.loads(ok("eval", "spam", mail, "--json"))
    assert (told["prompt"], told["split"], told["backbone"]) == ("spam", "test", "gemma-3-270m")
    assert {"accuracy", "accuracy_interval", "macro_f1", "mcc", "ece"} <= set(told["figures"])
    assert [row["label"] for row in told["classes"]] == ["ham", "spam"]
    assert sum(map(sum, told["confusion"])) == 4


def test_a_file_is_judged_like_a_prompt_of_the_store_and_nothing_is_kept(ok, kept, make, mail):
    make().save("other.safetensors")
    assert json.loads(ok("eval", "other.safetensors", mail, "--json"))["prompt"] == "other"
    assert kept.evaluations(make().digest) == {}


def test_a_split_of_a_folder(call, kept, tmp_path):
    for name, rows in (("train", 1), ("test", 3)):
        (tmp_path / "mails").mkdir(exist_ok=True)
        (tmp_path / "mails" / f"{name}.csv").write_text("\n".join(MAIL.splitlines()[: rows + 1]) + "\n")
    result = call("eval", "spam", "mails", "--split", "train", "--json")
    assert "the 1 rows of `train` of `mails`" in result.stderr
    assert json.loads(result.stdout)["figures"]["rows"] == 1
    assert "unknown split `tset`; did you mean `test`?" in call("eval", "spam", "mails", "--split", "tset").stderr


def test_rows_that_training_divided_are_divided_the_same_way_again(make, csv_of):
    Path("all.csv").write_text(csv_of(60))
    task = load_task("all.csv", seed=3)
    about = {"backbone": "gemma-3-270m", "seed": 3, "task": {"name": "all", "data": task.data_hash}}
    words = LabelWords.from_labels(["neg", "pos"])
    prompt = make(template=task.template, readout=words, provenance=about)
    chosen = choose_rows(prompt, "all.csv", "test", None)
    assert chosen.rows == task.splits["test"]
    assert "divided as in the training of this prompt" in chosen.origin
    assert choose_rows(prompt, "all.csv", "validation", None).origin.endswith("used for selection")
    everywhere = make(template=task.template, readout=words, provenance={**about, "fitted on": "all rows"})
    learned = choose_rows(everywhere, "all.csv", "test", None)
    assert len(learned.overlap) == len(learned.rows)
    assert "the prompt has learned from these rows" in learned.origin
    elsewhere = make(template=task.template, readout=words, provenance={**about, "seed": 4})
    assert len(choose_rows(elsewhere, "all.csv", "test", None).rows) == 60


def test_the_column_that_training_learned_is_scored_and_said(call, ok, make):
    lines = [f"a film {i},{'ab'[i % 2]},{'xy'[i // 2 % 2]}" for i in range(60)]
    Path("two.csv").write_text("\n".join(["text,label,category", *lines]) + "\n")
    short = ["--steps", 1, "--batch-size", 4, "--virtual-tokens", 2, "--no-report", "--no-race"]
    ok("train", "two.csv", "--label", "category", "--save", "cat", *short)
    assert PromptStore().get("cat").provenance["task"]["label"] == "category"
    said = call("eval", "cat", "two.csv")
    assert "`test` of `two.csv`, answers from the column `category`, divided as in the training" in said.stderr
    Path("new.csv").write_text("text,label,category\na new film,a,x\n")
    said = call("eval", "cat", "new.csv")
    assert "all 1 rows of `new.csv`, answers from the column `category`; whether training" in said.stderr
    Path("other.csv").write_text("text,label\na new film,x\n")
    said = call("eval", "cat", "other.csv")
    assert "answers from the column `label`, and the prompt was trained on those of `category`" in said.stderr
    asked = call("eval", "cat", "two.csv", "--label", "label")
    assert "line 2: the label `a` is none that the prompt knows (x, y)" in asked.stderr


def test_a_split_may_be_called_by_its_short_names_and_no_other(call, kept, mail):
    Path("mails").mkdir()
    for name, rows in (("train", 1), ("validation", 3)):
        Path(f"mails/{name}.csv").write_text("\n".join(MAIL.splitlines()[: rows + 1]) + "\n")
    result = call("eval", "spam", "mails", "--split", "val", "--json")
    assert (json.loads(result.stdout)["split"], json.loads(result.stdout)["figures"]["rows"]) == ("validation", 3)
    assert "unknown split `tset`; did you mean `test`?" in call("eval", "spam", mail, "--split", "tset").stderr


def test_a_figure_without_a_single_error_says_how_far_few_rows_can_see(call, kept, make):
    right = call("run", "spam", "hello there", "--json").stdout
    Path("one.csv").write_text(f"text,kind\nhello there,{json.loads(right)['spam']}\n")
    assert "no error in 1 rows: a bootstrap sees no further" in call("eval", "spam", "one.csv").stdout


def test_rows_that_stand_in_train_are_counted_and_left_out_once(call, make, home):
    Path("both").mkdir()
    Path("both/train.csv").write_text(MAIL + "more,ham\nyet more,spam\nand more,ham\nat last,spam\n")
    Path("both/test.csv").write_text(MAIL + "new,ham\n")
    task = load_task("both", template="{bos}{soft}Text: {text}\nLabel:")
    about = {"backbone": "gemma-3-270m", "seed": 0, "task": {"data": task.data_hash}}
    PromptStore().put(make(provenance=about), "mail")
    result = call("eval", "mail", "both", "--json")
    told = json.loads(result.stdout)
    assert (told["overlap"], told["without_overlap"]["rows"]) == (4, 1)
    assert "Warning: 4 of these rows also stand in train" in call("eval", "mail", "both").stdout


def test_other_weights_are_refused_unless_asked(call, kept, mail):
    refused = call("eval", "spam", mail, "--backbone", "org/retrained")
    assert refused.exit_code == 2
    assert "error: `spam`: the prompt was trained on `gemma-3-270m` (weights " in refused.stderr
    assert "--allow-other-weights" in refused.stderr
    allowed = call("eval", "spam", mail, "--backbone", "org/retrained", "--allow-other-weights", "--json")
    assert allowed.exit_code == 0
    assert "allowed as asked, but measure it again" in allowed.stderr
    assert json.loads(allowed.stdout)["backbone"] == "org/retrained"


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ("text,kind\nhello,egg\n", "line 2: the label `egg` is none that the prompt knows (ham, spam)"),
        ("body,kind\nhello,ham\n", "the template asks for `{text}`, and `bad.csv` has the columns `body`, `kind`"),
        ("text,kind\n", "has no rows"),
    ],
)
def test_rows_that_cannot_be_judged(call, kept, rows, text):
    Path("bad.csv").write_text(rows)
    result = call("eval", "spam", "bad.csv")
    assert result.exit_code == 2
    assert text in result.stderr
    assert kept.evaluations(kept.resolve("spam")) == {}


def test_a_prompt_of_a_backbone_known_by_its_path_asks_for_the_path(call, home, make, mail):
    PromptStore().put(make(provenance={"backbone": {"name": "my-folder"}}), "mine")
    result = call("eval", "mine", mail)
    assert result.exit_code == 2
    assert "`mine` was trained on `my-folder`, which can be loaded by its path only; give that with" in result.stderr


def test_templates_other_than_prefix(ok, home, make, mail):
    PromptStore().put(make(template=Template("{bos}Text: {text}{soft}\nLabel:")), "behind")
    assert json.loads(ok("eval", "behind", mail, "--json"))["figures"]["rows"] == 4


def test_every_kind_of_answer_is_judged_by_its_own_figures(ok, home, make):
    from softprompt.tasks.readout_kinds import Scalar, YesNo
    from softprompt.tasks.tags import TokenTags

    PromptStore().put(make(readout=Scalar(0.0, 5.0, (" awful", " great"))), "stars")
    Path("stars.csv").write_text("text,score\ngood film,4.5\nbad film,1\ndull film,2\n")
    told = json.loads(ok("eval", "stars", "stars.csv", "--json"))
    assert [measure["name"] for measure in told["figures"]["measures"]] == ["MAE", "RMSE", "Pearson", "Spearman"]
    assert "confusion" not in told
    PromptStore().put(make(readout=YesNo.from_labels(["warm", "dull"])), "moods")
    Path("moods.csv").write_text("text,labels\ngood film,warm\nbad film,dull|warm\nno film,\n")
    shown = ok("eval", "moods", "moods.csv")
    assert "micro-F1 %" in shown
    assert "label  precision %" in shown
    PromptStore().put(make(readout=TokenTags.from_tags(["B-Q", "O"], column="text")), "parts")
    Path("parts.jsonl").write_text('{"text": ["good", "film"], "tags": ["B-Q", "O"]}\n')
    assert json.loads(ok("eval", "parts", "parts.jsonl", "--json"))["figures"]["kind"] == "tagging"


def test_rows_of_other_kinds_are_divided_as_in_training_too(make):
    from softprompt.tasks.readout_kinds import YesNo

    lines = [f"film {i},{'warm|dull' if i % 3 else 'dull'}" for i in range(60)]
    Path("moods.csv").write_text("\n".join(["text,labels", *lines]) + "\n")
    task = load_task("moods.csv", kind="multi-label", seed=3)
    about = {"backbone": "gemma-3-270m", "seed": 3, "task": {"name": "moods", "data": task.data_hash}}
    prompt = make(template=task.template, readout=YesNo.from_labels(["dull", "warm"]), provenance=about)
    assert choose_rows(prompt, "moods.csv", "test", None).rows == task.splits["test"]
