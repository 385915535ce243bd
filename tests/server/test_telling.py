"""Tokens that are part of a character: their real bytes, where the tokenizer knows them."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from softprompt.server.telling import chat_logprobs, completion_logprobs
from softprompt.serving.asking import Ended, Piece, Token
from softprompt.serving.tokens import TokenTexts
from softprompt.testing.tiny_tokenizers import tiny_tokenizer

CAT = list("猫".encode())


def byte_fallback():
    """A tokenizer that says what its vocabulary lacks byte by byte, as SentencePiece does."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "a", "▁a", "\ufffd"]
    model = models.BPE({piece: i for i, piece in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def written(tokenizer, text):
    """The tokens of a text, each with all of them as the likeliest in its place."""
    ids, texts = tokenizer.encode(text, add_special_tokens=False), TokenTexts(tokenizer)
    likeliest = tuple((token, texts.of(token), -0.2 - place) for place, token in enumerate(ids))
    return [Token(token, texts.of(token), -0.1, likeliest) for token in ids]


@pytest.mark.parametrize("make", [tiny_tokenizer, byte_fallback])
def test_tokens_that_are_part_of_a_character_are_told_by_their_own_bytes(make):
    tokenizer = make()
    tokens = written(tokenizer, "猫a")
    content = chat_logprobs(tokens, tokenizer)["content"]
    assert [byte for token in content for byte in token["bytes"]] == [*CAT, *b"a"]
    assert [each["bytes"] for each in content[0]["top_logprobs"]] == [[byte] for byte in (*CAT, *b"a")]
    told = completion_logprobs(tokens, 4, tokenizer)
    names = [r"bytes:\xe7", r"bytes:\x8c", r"bytes:\xab", "a"]
    assert told["tokens"] == names
    assert told["top_logprobs"][1] == dict(zip(names, (-0.2, -1.2, -2.2, -3.2), strict=True))


@pytest.mark.parametrize("make", [tiny_tokenizer, byte_fallback])
def test_the_replacement_character_itself_is_a_character(make):
    tokenizer = make()
    content = chat_logprobs(written(tokenizer, "\ufffd"), tokenizer)["content"]
    assert [byte for token in content for byte in token["bytes"]] == list("\ufffd".encode())


def test_bytes_that_a_tokenizer_does_not_tell_are_none():
    class Silent:
        def convert_ids_to_tokens(self, token):
            return "▁half 猫"

    token = Token(5, "\ufffd", -0.1, ((5, "\ufffd", -0.1),))
    (told,) = chat_logprobs([token], Silent())["content"]
    assert told["bytes"] is told["top_logprobs"][0]["bytes"] is None
    assert completion_logprobs([token], 1, Silent())["top_logprobs"] == [{"\ufffd": -0.1}]


def test_both_endpoints_ask_the_backbone_s_tokenizer(rig):
    tokens = written(rig.app.state.context.backbone.tokenizer, "猫")

    usual = rig.engine.script

    def script(ask):
        yield Piece("猫", tuple(tokens))
        yield from (event for event in usual(ask) if isinstance(event, Ended))

    rig.engine.script = script
    content = rig.chat("summary", "a", logprobs=True).json["choices"][0]["logprobs"]["content"]
    assert [byte for token in content for byte in token["bytes"]] == CAT
    told = rig.complete("summary", "a", logprobs=1).json["choices"][0]["logprobs"]
    assert told["tokens"] == [r"bytes:\xe7", r"bytes:\x8c", r"bytes:\xab"]
