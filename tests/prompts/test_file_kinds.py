"""Prompt files of every readout and of conversations: what they require, and what is refused."""

import json

import pytest

from softprompt.errors import PromptFileError
from softprompt.prompts.header import Entry, Header
from softprompt.prompts.manifest import Manifest, read_manifest, write_manifest
from softprompt.tasks.chat import ChatTemplate, template_from_json
from softprompt.tasks.free_text import Text
from softprompt.tasks.kinds import features_of
from softprompt.tasks.readout import LabelWords, readout_from_json
from softprompt.tasks.readout_kinds import Scalar, YesNo
from softprompt.tasks.tags import TokenTags
from softprompt.tasks.template import Template

PLAIN = Template("{soft}{text}")
FRAMED = Template("{bos}{soft}{text} {mask}{sep}")
FINGERPRINT = {"architecture": "a", "tokenizer": "b", "weights": "c", "embedding_scale": "module"}
READOUTS = (
    LabelWords.from_labels(["ham", "spam"]),
    YesNo.from_labels(["toxic"]),
    Scalar(0.0, 5.0),
    Text(30, ("\n",)),
    TokenTags.from_tags(["B-PER", "O"]),
)


def manifest(readout, template=PLAIN, requires=None):
    needed = features_of(readout, template) if requires is None else requires
    made = {"template": template.to_json(), "readout": readout.to_json(), "fingerprint": FINGERPRINT}
    return {**made, "requires": sorted(needed), "format": 1, "tokenization": "pieces/1"}


def header(found, **shapes):
    entries = {"input": Entry("F32", (3, 4), 0, 48)}
    entries |= {site.replace("_", "."): Entry("F32", shape, 0, 0) for site, shape in shapes.items()}
    return Header(entries, json.dumps(found), 0)


@pytest.mark.parametrize(
    "template", [PLAIN, FRAMED, ChatTemplate(max_tokens=9, system="Be kind.")], ids=["pattern", "slots", "chat"]
)
@pytest.mark.parametrize("readout", READOUTS, ids=lambda readout: readout.kind)
def test_every_readout_and_template_comes_back(readout, template):
    found = read_manifest(header(manifest(readout, template)), "a")
    assert found.features == set(found.requires) == features_of(readout, template)
    assert readout_from_json(found.readout.model_dump()) == readout
    assert template_from_json(found.template.model_dump()) == template
    assert (found.readout.outputs, tuple(found.readout.labels)) == (readout.outputs, readout.labels)
    assert json.loads(write_manifest(found, "a"))["readout"] == readout.to_json()
    assert Manifest.model_validate(json.loads(write_manifest(found, "a"))) == found


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (manifest(READOUTS[3], requires=[]), "it needs the feature `text`, which it does not say it requires"),
        (manifest(READOUTS[0], ChatTemplate(), []), "it needs the feature `chat`, which it does not say it requires"),
        (manifest(READOUTS[0], FRAMED, []), "it needs the feature `mask`, which it does not say it requires"),
        (manifest(READOUTS[0], FRAMED, ["mask"]), "it needs the feature `sep`, which it does not say it requires"),
        ({**manifest(READOUTS[3]), "readout": {"kind": "text"}}, "wrong at `readout.max_new_tokens` "),
        ({**manifest(READOUTS[2]), "readout": {**READOUTS[2].to_json(), "words": ["a"]}}, "wrong at `readout.words` "),
        ({**manifest(READOUTS[2]), "readout": {**READOUTS[2].to_json(), "loop": 1}}, "wrong at `readout.loop` "),
        ({**manifest(READOUTS[0]), "readout": {"labels": []}}, "wrong at `readout.kind` "),
        ({**manifest(READOUTS[0]), "template": {"kind": "song"}}, "wrong at `template.kind` "),
        ({**manifest(READOUTS[0]), "template": "x"}, "wrong at `template` "),
    ],
)
def test_a_manifest_that_is_wrong_is_refused(found, message):
    with pytest.raises(PromptFileError, match=message):
        read_manifest(header(found), "a")


@pytest.mark.parametrize(("readout", "rows"), [(READOUTS[1], 1), (READOUTS[2], 2), (READOUTS[4], 2)])
def test_a_learned_head_has_the_rows_of_its_readout(readout, rows):
    found = manifest(readout, requires={readout.kind, "learned-rows"})
    assert read_manifest(header(found, readout_weight=(rows, 4)), "a").readout.outputs == rows
    with pytest.raises(PromptFileError, match=f"`readout.weight` has 3 rows for {rows} labels"):
        read_manifest(header(found, readout_weight=(3, 4)), "a")
    text = manifest(READOUTS[3], requires={"text", "learned-rows"})
    with pytest.raises(PromptFileError, match=r"`readout.weight` has 2 rows for 0 labels"):
        read_manifest(header(text, readout_weight=(2, 4)), "a")


def test_a_reader_from_before_the_slots_refuses_a_file_that_uses_them(monkeypatch):
    """It would take `{sep}` for a column of the rows."""
    framed, plain = manifest(READOUTS[0], FRAMED), manifest(READOUTS[0])
    assert (framed["requires"], plain["requires"]) == (["mask", "sep"], [])
    monkeypatch.setattr("softprompt.prompts.manifest.WRITTEN_FEATURES", frozenset({"chat", "scalar", "text"}))
    with pytest.raises(PromptFileError, match="it requires `mask`, `sep`, which this version of softprompt does not"):
        read_manifest(header(framed), "a")
    assert read_manifest(header(plain), "a").template.pattern == PLAIN.pattern


def test_braces_that_are_text_are_no_slots_and_a_broken_pattern_is_left_to_the_template():
    for pattern in ("{soft}{text}{{sep}}", "{soft}{text} {"):
        found = {**manifest(READOUTS[0]), "template": {"pattern": pattern, "max_tokens": None}}
        assert read_manifest(header(found), "a").features == frozenset()
