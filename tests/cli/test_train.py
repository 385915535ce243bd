"""`softprompt train`: trains, reports, keeps."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.store.store import PromptStore
from softprompt.training import trainer

SHORT = ["--steps", 4, "--validate-every", 2, "--batch-size", 4, "--virtual-tokens", 3]
QUIET = [*SHORT, "--no-report"]


def test_it_prints_the_report_and_keeps_the_prompt_with_it(ok, folder, without_encoder):
    shown = ok("train", folder, "--save", "mood", "--out", "mood.safetensors", *SHORT)
    assert shown.startswith("reviews: ")
    assert "Figures are on the 10 test rows as given; they took part in no choice." in shown
    assert "kept as mood@v1: 3 virtual tokens, " in shown
    assert shown.endswith('try: softprompt run mood "some text"\n')
    prompt = PromptStore().get("mood")
    assert SoftPrompt.load("mood.safetensors").digest == prompt.digest
    report = PromptStore().evaluations(prompt.digest)["report"]
    assert (report["figures"]["rows"], report["trained"]["digest"]) == (10, prompt.digest)


def test_text_longer_than_the_model_is_shortened_and_counted(call, folder, without_encoder):
    path = folder / "train.csv"
    path.write_text(path.read_text() + f"99,{'long ' * 400},pos\n")
    result = call("train", folder, "--steps", 6, "--batch-size", 25, "--validate-every", 6)
    assert result.exit_code == 0, result.output
    assert "6 times a training row was shortened to fit" in result.stdout


def test_json_says_what_was_made_and_where_it_is(ok, folder, home):
    told = json.loads(ok("train", folder, "--save", "mood", "--json", *QUIET))
    assert told["report"] is None
    assert told["prompt"] == {
        "digest": PromptStore().get("mood").digest,
        "bytes": len(PromptStore().get("mood").to_bytes()),
        "virtual_tokens": 3,
    }
    assert told["kept"]["store"] == "mood@v1"
    assert Path(told["run"]).parent == home / "runs"


def test_without_a_name_the_prompt_is_kept_in_the_run(ok, folder):
    shown = ok("train", folder, "--run", "here", *QUIET)
    assert "kept as here/prompt.safetensors: 3 virtual tokens" in shown
    assert SoftPrompt.load("here/prompt.safetensors").readout.labels == ("neg", "pos")
    assert PromptStore().list() == ()


def test_columns_template_words_and_shots_reach_the_task(call, folder):
    result = call(
        "train", folder, "--text", "review", "--label", "sentiment", "--template", "{bos}{soft}{review} It was",
        "--words", "pos=great", "--words", "neg=awful", "--scoring", "full", "--shots", 2, "--max-tokens", 40,
        "--run", "here", *QUIET,
    )  # fmt: skip
    assert result.exit_code == 0
    assert "train            4 rows" in result.stderr
    prompt = SoftPrompt.load("here/prompt.safetensors")
    assert prompt.template.to_json() == {"pattern": "{bos}{soft}{review} It was", "max_tokens": 40}
    assert (prompt.readout.words, prompt.readout.scoring) == ((" awful", " great"), "full")


def test_what_it_says_to_type_next_is_what_the_prompt_takes(ok, home):
    lines = [f"a film {i},part {i % 3},{'xy'[i % 2]}" for i in range(40)]
    Path("two.csv").write_text("\n".join(["title,body text,label", *lines]) + "\n")
    both = ["--text", "title", "--text", "body text", "--save", "two", "--backbone", "org/other"]
    tried = ok("train", "two.csv", *both, *QUIET).splitlines()[-1]
    assert tried == (
        "try: softprompt run two --backbone org/other --field 'title=some text' --field 'body text=some text'"
    )
    assert "two" in ok(*shlex.split(tried)[2:])
    asked = [{"question": f"which {i}?", "choices": ["a dog", "a cat"], "answer": i % 2} for i in range(40)]
    Path("quiz.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    tried = ok("train", "quiz.jsonl", "--save", "quiz", *QUIET).partition("try: ")[2]
    assert tried == "softprompt run quiz --field 'question=some text' --field 'choices=A. one\nB. another'\n"
    assert "quiz" in ok(*shlex.split(tried)[1:])
    tried = ok("train", "two.csv", "--text", "title", "--run", "my runs@home", *QUIET).splitlines()[-1]
    assert tried == "try: softprompt run 'my runs@home/prompt.safetensors' \"some text\""


def test_a_template_has_its_line_ends_as_we_print_them(ok, folder):
    typed = r"{bos}{soft}Review:\t{review}\n\\name:"
    ok("train", folder, "--template", typed, "--run", "here", *QUIET)
    prompt = SoftPrompt.load("here/prompt.safetensors")
    assert prompt.template.pattern == "{bos}{soft}Review:\t{review}\n\\name:"


def test_a_text_to_start_from_and_another_start_are_refused(call, folder, home):
    result = call("train", folder, "--init", "random", "--init-text", "my words", *QUIET)
    assert result.stderr.startswith("error: init_text is `my words`, but init is `random`, which starts from no text")
    assert not home.exists()


def test_it_starts_from_another_prompt_of_the_store(ok, folder):
    ok("train", folder, "--save", "first", "--exportable", *QUIET)
    ok("train", folder, "--save", "second", "--init", "prompt", "--init-prompt", "first@v1", *QUIET)
    first, second = (PromptStore().get(name) for name in ("first", "second"))
    assert second.provenance["parent"] == first.digest


def test_an_interruption_says_how_to_go_on_and_resume_ends_in_the_same_bytes(call, ok, folder, monkeypatch):
    again = ["train", folder, "--checkpoint-every", 1, *QUIET]
    ok(*again, "--run", "whole")
    gradients, calls = trainer.gradients, []

    def stopped(*given, **how):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return gradients(*given, **how)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "gradients", stopped)
        result = call(*again, "--run", "cut")
    assert result.exit_code == 130
    assert result.stderr.endswith("the same command with --resume goes on from there\ninterrupted\n")
    result = call(*again, "--run", "cut", "--resume")
    assert result.exit_code == 0
    assert "going on from step 2" in result.stderr
    assert Path("cut/prompt.safetensors").read_bytes() == Path("whole/prompt.safetensors").read_bytes()


@pytest.mark.parametrize("place", ["store", "file"])
def test_a_full_disk_at_the_end_loses_nothing_of_the_training(call, folder, monkeypatch, place):
    from softprompt import durable

    write = durable.write_bytes

    def full(path, data):
        if "home/store" in str(path) or path.name == "out.safetensors":
            path = path.with_name("x" * 300)  # a name that no file system takes
        write(path, data)

    monkeypatch.setattr("softprompt.store.objects.write_bytes", full)
    monkeypatch.setattr("softprompt.prompts.soft_prompt.write_bytes", full)
    where = ["--save", "mood"] if place == "store" else ["--out", "out.safetensors"]
    result = call("train", folder, "--run", "here", *where, *QUIET)
    assert result.exit_code == 2
    assert "nothing was left half-written" in result.stderr
    assert PromptStore().list() == ()
    assert not Path("out.safetensors").exists()
    assert SoftPrompt.load("here/prompt.safetensors").length == 3


def test_every_kind_of_task_has_its_flags(ok, call, without_encoder):
    lines = [json.dumps({"text": f"a {'good' if i % 2 else 'bad'} film {i}", "score": i % 5}) for i in range(40)]
    Path("stars.jsonl").write_text("\n".join(lines) + "\n")
    flags = ["--kind", "regression", "--label", "score", "--text", "text", "--bounds", "0,10"]
    told = json.loads(ok("train", "stars.jsonl", *flags, "--json", *SHORT))
    assert told["report"]["figures"]["kind"] == "regression"
    readout = SoftPrompt.load(told["kept"]["run"]).readout
    assert (readout.low, readout.high) == (0, 10)
    for bounds in ("0", "a,b", "1,2,3"):
        result = call("train", "stars.jsonl", *flags[:-1], bounds, *QUIET)
        assert f"error: --bounds is `{bounds}`; write two numbers with a comma between them" in result.stderr
    written = ["--kind", "generation", "--text", "text", "--label", "score", "--max-new-tokens", 7]
    told = json.loads(ok("train", "stars.jsonl", *written, "--json", *QUIET))
    assert SoftPrompt.load(told["kept"]["run"]).readout.max_new_tokens == 7


def test_the_members_of_an_ensemble_are_kept_under_numbers_and_answer_together(ok, folder, without_encoder):
    shown = ok("train", folder, "--ensemble", 3, "--save", "mood", "--out", "mood.safetensors", *SHORT)
    assert "ensemble of 3 " in shown
    assert "its other members: mood-2, mood-3\n" in shown
    assert shown.endswith('try: softprompt run mood,mood-2,mood-3 --ensemble mean "some text"\n')
    assert [each.name for each in PromptStore().list()] == ["mood", "mood-2", "mood-3"]
    for name in ("mood", "mood-2", "mood-3"):
        assert SoftPrompt.load(f"{name}.safetensors").digest == PromptStore().get(name).digest
    (head, line) = ok("run", "mood,mood-2,mood-3", "--ensemble", "vote", "a good film").splitlines()
    assert head.split() == ["text", "answer"]
    assert line.split()[3] in ("pos", "neg")
