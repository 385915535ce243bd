"""Prompts answer through vLLM's and SGLang's HTTP forms as they answer here, and what cannot go there is refused."""

from __future__ import annotations

import base64
import io
import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from softprompt.backbones.backbone import Backbone
from softprompt.errors import (
    ConfigError,
    IncompatiblePromptError,
    RemoteError,
    TemplateError,
    UnknownNameError,
    UnsupportedBackboneError,
)
from softprompt.modeling.bound import BoundPrompt
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.modeling.sampling import Sampling
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.serving.choices import choices_of, read_choices
from softprompt.serving.embedding import embed_row, require_embeddable, require_engine
from softprompt.serving.export import export_for
from softprompt.serving.payloads import Bounds, encode_rows, sglang_generate, vllm_chat, vllm_choice, vllm_completion
from softprompt.serving.remote import RemoteModel
from softprompt.store.torch_file import read_torch
from softprompt.tasks.chat import ChatTemplate
from softprompt.tasks.free_text import Text
from softprompt.tasks.readout import LabelWords, Readout
from softprompt.tasks.readout_kinds import Scalar
from softprompt.tasks.template import Template
from softprompt.testing.tiny import tiny_backbone

ROWS = [{"text": "one"}, {"text": "two and three"}, {"text": ""}]
PATTERNS = {
    "prefix": "{bos}{soft}Text: {text}\nLabel:",
    "interleaved": "{soft}{bos}Say{soft} of {text}{soft}:",
    "with a separator": "{bos}{text}{sep}{soft}",
}
CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}<assistant>"


# --- servers that decode what they are sent as vLLM and SGLang do, and write with a tiny model -------------------


def decoded(text: str, size: int) -> Tensor:
    """vLLM's reading of `prompt_embeds`: weights only, no sparse tensor, two axes of the hidden size."""
    rows = torch.load(io.BytesIO(base64.b64decode(text, validate=True)), weights_only=True)  # noqa: TID251
    assert isinstance(rows, Tensor)
    assert not rows.is_sparse
    assert rows.is_floating_point()
    assert (rows.dim(), rows.shape[1]) == (2, size)
    return rows


@torch.inference_mode()
def next_log_probabilities(backbone: Backbone, rows: Tensor) -> Tensor:
    """Over the vocabulary, by a whole pass of the transformers model over embedded rows."""
    logits = backbone.model(inputs_embeds=rows[None].to(backbone.dtype), use_cache=False).logits[0, -1]
    return torch.log_softmax(logits.float(), dim=-1)


def greedy(backbone: Backbone, rows: Tensor, most: int, ends: Sequence[int], stops: Sequence[str]) -> tuple[str, str]:
    """Text and the reason of its end, token by token, each by a whole pass."""
    tokens: list[int] = []
    while len(tokens) < most:
        token = int(next_log_probabilities(backbone, rows).argmax())
        if token in ends:
            return backbone.tokenizer.decode(tokens, skip_special_tokens=False), "stop"
        tokens.append(token)
        text = backbone.tokenizer.decode(tokens, skip_special_tokens=False)
        for stop in stops:
            if stop in text:
                return text.partition(stop)[0], "stop"
        rows = torch.cat([rows, backbone.embed(torch.tensor([token]))])
    return backbone.tokenizer.decode(tokens, skip_special_tokens=False), "length"


class FakeServer:
    """What was asked of a server, and how it answers."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.asked: list[tuple[str, Mapping[str, str], dict[str, Any]]] = []
        self.reply: Any = None
        self.url = ""

    def answer(self, path: str, body: dict[str, Any]) -> Any:
        return {"/v1/completions": self._completion, "/generate": self._generate}[path](body)

    def _completion(self, body: dict[str, Any]) -> Any:
        assert body["prompt"] is None
        rows = decoded(body["prompt_embeds"], self.backbone.embedding_size)
        if "logprob_token_ids" in body:
            assert body["logprobs"] is not None
            told = next_log_probabilities(self.backbone, rows)
            top = {f"token_id:{token}": float(told[token]) for token in body["logprob_token_ids"]}
            return {"choices": [{"text": "", "logprobs": {"top_logprobs": [top]}, "finish_reason": "length"}]}
        text, reason = greedy(self.backbone, rows, body["max_tokens"], body["stop_token_ids"], body["stop"])
        return {"choices": [{"text": text, "finish_reason": reason}]}

    def _generate(self, body: dict[str, Any]) -> Any:
        rows = torch.tensor(body["input_embeds"])
        settings = body["sampling_params"]
        if body.get("return_logprob"):
            told = next_log_probabilities(self.backbone, rows)
            row = [[float(told[token]), token, None] for token in body["token_ids_logprob"]]
            return {"text": "", "meta_info": {"output_token_ids_logprobs": [row], "finish_reason": {"type": "length"}}}
        most = settings["max_new_tokens"]
        text, reason = greedy(self.backbone, rows, most, settings["stop_token_ids"], settings["stop"])
        return {"text": text, "meta_info": {"finish_reason": {"type": reason}}}


@contextmanager
def serving(backbone: Backbone) -> Iterator[FakeServer]:
    """A fake server on a free port of this machine."""
    fake = FakeServer(backbone)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            fake.asked.append((self.path, dict(self.headers), body))
            status, data = fake.reply or (200, json.dumps(fake.answer(self.path, body)).encode())
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield fake
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def llama() -> Backbone:
    return tiny_backbone("llama")


@pytest.fixture(scope="module")
def server(llama: Backbone) -> Iterator[FakeServer]:
    with serving(llama) as fake:
        yield fake


def prompt_of(
    backbone: Backbone, pattern: str = PATTERNS["prefix"], readout: Readout | None = None, **more: Any
) -> SoftPrompt:
    noise = torch.randn(5, backbone.embedding_size, generator=torch.Generator().manual_seed(0))
    known = {"tensors": {"input": noise * backbone.embedding_rms}, "template": Template(pattern)}
    return SoftPrompt(readout=readout or Text(6), fingerprint=backbone.fingerprint, **{**known, **more})


# --- what comes back is what we answer ---------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_text_is_ours(engine: Any, pattern: str, llama: Backbone, server: FakeServer) -> None:
    prompt = prompt_of(llama, pattern)
    remote = RemoteModel(server.url, llama, engine=engine)
    expected = PromptedModel(llama).score(ROWS, prompt)
    for row, ours in zip(ROWS, expected, strict=True):
        theirs = remote.answer(row, prompt)
        assert (theirs.label, theirs.finished) == (ours.label, ours.finished)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize("scoring", ["trie", "full"])
def test_label_probabilities_are_ours(engine: Any, scoring: Any, llama: Backbone, server: FakeServer) -> None:
    words = {"a": "so it is", "b": "so it was", "c": "no"}
    readout = LabelWords.from_labels(["a", "b", "c"], words, scoring)
    prompt = prompt_of(llama, readout=readout, temperature=1.7, abstain=0.4)
    remote = RemoteModel(server.url, llama, engine=engine)
    for row, ours in zip(ROWS, PromptedModel(llama).score(ROWS, prompt), strict=True):
        theirs = remote.answer(row, prompt)
        assert theirs.probabilities == pytest.approx(ours.probabilities, abs=1e-5)
        assert (theirs.label, theirs.abstained) == (ours.label, ours.abstained)


def test_a_conversation_is_ours_through_completions(server: FakeServer) -> None:
    backbone = tiny_backbone("llama")
    backbone.tokenizer.chat_template = CHAT
    prompt = prompt_of(backbone, template=ChatTemplate(system="Be brief."), readout=Text(6))
    row = {"messages": json.dumps([{"role": "user", "content": "Hello"}])}
    (ours,) = PromptedModel(backbone).score([row], prompt)
    assert RemoteModel(server.url, backbone).answer(row, prompt).label == ours.label


def test_a_key_and_a_model_name_are_sent(llama: Backbone, server: FakeServer) -> None:
    RemoteModel(server.url + "/", llama, model="org/name", key="secret").answer(ROWS[0], prompt_of(llama), max_tokens=2)
    path, headers, body = server.asked[-1]
    assert (path, headers["Authorization"]) == ("/v1/completions", "Bearer secret")
    assert (body["model"], body["max_tokens"]) == ("org/name", 2)


# --- the forms ----------------------------------------------------------------------------------------------------


def test_completions_hold_the_whole_row_embedded(llama: Backbone) -> None:
    prompt = prompt_of(llama, readout=Text(6, stop=("\n",)))
    model = PromptedModel(llama)
    bound = model.bind(prompt)
    row = model.encode(ROWS[1], bound)
    rows = embed_row(llama, bound, row)
    ids = torch.tensor([*bound.template.prefix, *row.ids])
    assert torch.equal(rows[ids >= 0], llama.embed(ids[ids >= 0]))
    assert torch.equal(rows[ids < 0], prompt.tensors["input"])
    body = vllm_completion("m", rows, Bounds.of(bound))
    assert torch.equal(decoded(body.pop("prompt_embeds"), 48), rows)
    assert body == {
        "model": "m", "prompt": None, "max_tokens": 6, "stop": ["\n"], "stop_token_ids": [llama.eos],
        "skip_special_tokens": False, "spaces_between_special_tokens": False, "temperature": 0.0,
    }  # fmt: skip
    drawn = Sampling(temperature=0.5, top_p=0.9, min_p=0.1, seed=7)
    body = vllm_completion("m", rows, Bounds.of(bound, 3), drawn)
    assert (body["max_tokens"], body["temperature"], body["top_p"], body["top_k"]) == (3, 0.5, 0.9, 0)
    assert (body["min_p"], body["seed"]) == (0.1, 7)
    body = sglang_generate(rows, Bounds.of(bound), drawn)
    assert torch.equal(torch.tensor(body["input_embeds"]), rows)
    assert (body["sampling_params"]["top_k"], body["sampling_params"]["sampling_seed"]) == (-1, 7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_go_in_their_own_dtype(dtype: torch.dtype) -> None:
    rows = torch.randn(3, 8).to(dtype)
    back = decoded(encode_rows(rows), 8)
    assert back.dtype == dtype
    assert torch.equal(back, rows)


def test_conversations_hold_the_soft_rows_alone() -> None:
    backbone = tiny_backbone("llama")
    backbone.tokenizer.chat_template = CHAT
    prompt = prompt_of(backbone, template=ChatTemplate(system="Be brief."))
    bound = BoundPrompt.of(backbone, prompt)
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    messages.append({"role": "user", "content": "Bye"})
    soft = prompt.tensors["input"]
    body = vllm_chat("m", bound, {"messages": json.dumps(messages)}, Bounds.of(bound), soft)
    part = body["messages"][1]["content"][0]
    assert torch.equal(decoded(part["data"], 48), soft)
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [part, {"type": "text", "text": "Hello"}]},
        *messages[1:],
    ]
    assert part["type"] == "prompt_embeds"
    assert not {"prompt", "prompt_embeds"} & set(body)


def test_a_pattern_is_no_conversation(llama: Backbone) -> None:
    bound = BoundPrompt.of(llama, prompt_of(llama))
    with pytest.raises(ConfigError, match=r"(?s)the prompt's template is `\{bos\}.* not a conversation, and"):
        vllm_chat("m", bound, ROWS[0], Bounds.of(bound), torch.ones(1, 48))


# --- what cannot be asked -----------------------------------------------------------------------------------------


def deep(backbone: Backbone) -> dict[str, torch.Tensor]:
    return {f"layers.{n}.{kind}": torch.ones(2, 3, 12) for n in range(2) for kind in ("key", "value")}


def test_prompts_that_are_more_than_rows_are_refused_by_name(llama: Backbone) -> None:
    labels = LabelWords.from_labels(["a", "b"])
    cases = {
        r"cannot go to vLLM: it has keys and values in every layer \(`layers.0.key`\)": {"tensors": deep(llama)},
        r"it has learned output rows \(`readout.weight`\), and vLLM takes": {
            "tensors": {"input": torch.ones(2, 48), "readout.weight": torch.ones(2, 48)}
        },
        r"it has rows for an encoder \(`encoder.input`\)": {"tensors": {"encoder.input": torch.ones(2, 48)}},
        "its answers are read as `scalar`, and vLLM gives": {"readout": Scalar(0.0, 1.0)},
    }
    for message, changes in cases.items():
        with pytest.raises(IncompatiblePromptError, match=message):
            require_embeddable(prompt_of(llama, **{"readout": labels, **changes}), "vllm")


@pytest.mark.parametrize(
    ("family", "engine", "message"),
    [
        ("bert", "vllm", r"vLLM takes embedded rows of decoders, and `tiny-bert` \(BERT, encoder\) is none"),
        ("opt_projected", "vllm", "takes rows of the hidden size 48, and the embeddings of .* have 32 numbers"),
        ("phi3_longrope", "sglang", r"SGLang turns the keys of .* by factors of its longest row \(longrope\)"),
        ("gemma2", "sglang", "SGLang multiplies embedded rows of .* by the root of the hidden size once more"),
    ],
)
def test_backbones_that_would_be_run_otherwise_are_refused(family: str, engine: Any, message: str) -> None:
    with pytest.raises(UnsupportedBackboneError, match=message):
        require_engine(tiny_backbone(family), engine)


def test_gemma2_goes_to_vllm_which_scales_tokens_only() -> None:
    require_engine(tiny_backbone("gemma2"), "vllm")


def test_what_cannot_be_asked_of_a_prompt(llama: Backbone) -> None:
    text, labels = prompt_of(llama), prompt_of(llama, readout=LabelWords.from_labels(["a", "b"]))
    bound = BoundPrompt.of(llama, labels)
    with pytest.raises(ConfigError, match="text was asked of a prompt whose answers are chosen, not written"):
        Bounds.of(bound)
    with pytest.raises(ConfigError, match="max_tokens is 0; an answer has at least 1 token"):
        Bounds.of(BoundPrompt.of(llama, text), 0)
    with pytest.raises(IncompatiblePromptError, match="are read as `text`, and other engines tell the probabilities"):
        choices_of(BoundPrompt.of(llama, text))
    with pytest.raises(IncompatiblePromptError, match=r"did not tell the log-probability of 1 of 2 tokens that"):
        read_choices(bound, [{choices_of(bound)[0].tokens[0]: -1.0}])
    with pytest.raises(ConfigError, match=r"repetition_penalty is 2.0, which counts the row's tokens, and an engine"):
        sglang_generate(torch.ones(1, 48), Bounds(3), Sampling(repetition_penalty=2.0))
    with pytest.raises(ConfigError, match="200 labels part at one token, and vLLM tells the probabilities of 128"):
        vllm_choice("m", torch.ones(1, 48), range(200))


def test_a_server_that_is_none(llama: Backbone, server: FakeServer) -> None:
    with pytest.raises(ConfigError, match=r"the server is `file:///x`; give a URL that begins with http"):
        RemoteModel("file:///x", llama)
    with pytest.raises(UnknownNameError, match="unknown engine `vlm`; did you mean `vllm`"):
        RemoteModel(server.url, llama, engine="vlm")
    with pytest.raises(RemoteError, match=r"the server at http://127.0.0.1:1 cannot be reached \(.*refused"):
        RemoteModel("http://127.0.0.1:1", llama).answer(ROWS[0], prompt_of(llama))
    with pytest.raises(TemplateError, match="the template asks for the field `text`"):
        RemoteModel(server.url, llama).answer({}, prompt_of(llama))


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((400, b'{"error": "no embeds"}'), r'refused the request \(400\): \{"error": "no embeds"\}'),
        ((200, b"<html>"), "answered no JSON"),
        ((200, b'{"other": 1}'), r"answered in another form than vLLM's \(\{\"other\": 1\}\); check its URL"),
        ((200, b'{"choices": [{"text": "a", "logprobs": null}]}'), "answered in another form than vLLM's"),
    ],
)
def test_a_server_that_answers_otherwise(reply: Any, message: str, llama: Backbone, server: FakeServer) -> None:
    server.reply = reply
    try:
        with pytest.raises(RemoteError, match=message):
            RemoteModel(server.url, llama).answer(ROWS[0], prompt_of(llama, readout=LabelWords.from_labels(["a", "b"])))
    finally:
        server.reply = None


# --- the folder ---------------------------------------------------------------------------------------------------


def row_of(folder: Path, backbone: Backbone, row: dict[str, str]) -> torch.Tensor:
    """What the README tells to embed, by running the code that stands in it."""
    code = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.S)[1]
    scope: dict[str, Any] = {}
    exec(code, scope)
    soft = read_torch((folder / "soft.pt").read_bytes(), "soft.pt")
    return scope["embedded"](backbone.tokenizer, backbone.model.get_input_embeddings(), soft, row).detach()


@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_the_folder_says_all_that_is_needed(family: str, pattern: str, tmp_path: Path) -> None:
    backbone = tiny_backbone(family)
    prompt = prompt_of(backbone, pattern)
    export_for(prompt, backbone, tmp_path / "out", "vllm", ROWS[1])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "prompt.safetensors", "soft.pt", "README.md", "completion.json",
    }  # fmt: skip
    body = json.loads((tmp_path / "out" / "completion.json").read_text())
    rows = decoded(body["prompt_embeds"], 48)
    assert torch.equal(row_of(tmp_path / "out", backbone, ROWS[1]), rows)
    (ours,) = PromptedModel(backbone).score([ROWS[1]], prompt)
    text, _ = greedy(backbone, rows, body["max_tokens"], body["stop_token_ids"], body["stop"])
    assert Bounds.of(BoundPrompt.of(backbone, prompt)).answer(text) == ours.label
    assert SoftPrompt.load(tmp_path / "out" / "prompt.safetensors").digest == prompt.digest


def test_folders_of_the_other_kinds(llama: Backbone, tmp_path: Path) -> None:
    labels = LabelWords.from_labels(["a", "b"])
    export_for(prompt_of(llama, readout=labels, temperature=2.0), llama, tmp_path / "labels", "vllm")
    body = json.loads((tmp_path / "labels" / "completion.json").read_text())
    assert body["logprob_token_ids"] == list(
        choices_of(BoundPrompt.of(llama, prompt_of(llama, readout=labels)))[0].tokens
    )
    told = (tmp_path / "labels" / "README.md").read_text()
    assert "`logprob_token_ids`" in told
    assert "Divide log-probabilities by 2." in told
    export_for(prompt_of(llama), llama, tmp_path / "sglang", "sglang")
    assert "--disable-radix-cache" in (tmp_path / "sglang" / "README.md").read_text()
    assert len(json.loads((tmp_path / "sglang" / "generate.json").read_text())["input_embeds"][0]) == 48
    backbone = tiny_backbone("llama")
    backbone.tokenizer.chat_template = CHAT
    export_for(prompt_of(backbone, template=ChatTemplate()), backbone, tmp_path / "chat", "vllm")
    body = json.loads((tmp_path / "chat" / "chat.json").read_text())
    assert body["messages"][0]["content"][1] == {"type": "text", "text": "Hello"}
    assert "chat.json" in (tmp_path / "chat" / "README.md").read_text()


def test_what_is_not_exported(llama: Backbone, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown engine `tgi`"):
        export_for(prompt_of(llama), llama, tmp_path / "out", "tgi")
    with pytest.raises(IncompatiblePromptError, match="keys and values in every layer"):
        export_for(prompt_of(llama, tensors=deep(llama)), llama, tmp_path / "out", "vllm")
    with pytest.raises(IncompatiblePromptError, match="and is used with `tiny-gpt2`"):
        export_for(prompt_of(llama), tiny_backbone("gpt2"), tmp_path / "out", "vllm")
    with pytest.raises(TemplateError, match="the template asks for the field `text`"):
        export_for(prompt_of(llama), llama, tmp_path / "out", "vllm", {"body": "x"})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ConfigError, match="is there already; give a folder that is new or empty"):
        export_for(prompt_of(llama), llama, tmp_path / "full", "vllm")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
