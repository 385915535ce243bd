"""The README of a folder for another engine: how its server is started, and how a row is embedded for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from softprompt.backbones.backbone import Backbone
from softprompt.modeling.bound import BoundPrompt
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.serving.embedding import TITLES, Engine
from softprompt.serving.payloads import Bounds
from softprompt.tasks.chat import ChatTemplate
from softprompt.tasks.free_text import Text
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.template import Bos, Field, Literal, Piece, Sep, Soft

_TEXT = """# A soft prompt for {title}

Written by softprompt for `{model}`, which must be the model that {title} serves. `prompt.safetensors` is the prompt
itself, `soft.pt` its {count} virtual tokens [{count}, {size}] as `torch.save` writes a tensor
(`torch.load(path, weights_only=True)`), and these are requests, ready to be sent:

{requests}

Start the server so that it takes embedded rows, for people you trust only:

    {start}

## Rows of your own

From Python, with softprompt installed:

```python
import softprompt as sp
from softprompt.serving.remote import RemoteModel

prompt = sp.SoftPrompt.load("prompt.safetensors")
server = RemoteModel("{url}", sp.load_backbone("{model}"), engine="{engine}")
print(server.answer({fields}, prompt).label)
```

{by_hand}
{answer}
"""

_BY_HAND = """Without it, embed a row as follows; `embed` is the model's own embedding module
(`model.get_input_embeddings()`, which scales where its family does) and `soft` the tensor of `soft.pt`. Tokenise piece
by piece, as here: one text of all pieces gives other tokens.

```python
def embedded(tokenizer, embed, soft, row):
    import torch
    ids = []
{steps}
    ids = torch.tensor(ids)
    rows = embed(ids.clamp(min=0))
    rows[ids < 0] = soft[-1 - ids[ids < 0]].to(rows.dtype)
    return rows
```
"""

_CHAT = """The conversation is written by the model's own chat template, with the virtual tokens right in front of the
first user's words. `chat.json` leaves that to the server: it makes tokens of the whole text, while the prompt was
trained on the template's words and each message by themselves. Where a message begins or ends with spaces or line
breaks those may differ; the client above sends the tokens of training.
"""

_START = {
    "vllm": "vllm serve {model} --runner generate --enable-prompt-embeds",
    "sglang": "python -m sglang.launch_server --model-path {model} --disable-radix-cache",
}
_URL = {"vllm": "http://127.0.0.1:8000", "sglang": "http://127.0.0.1:30000"}
_PATH = {
    "completion.json": "/v1/completions",
    "chat.json": "/v1/chat/completions",
    "generate.json": "/generate",
}


def readme(prompt: SoftPrompt, bound: BoundPrompt, backbone: Backbone, engine: Engine, requests: Sequence[str]) -> str:
    """Return the README of a folder with these requests."""
    url = _URL[engine]
    chat = isinstance(prompt.template, ChatTemplate)
    fields = dict.fromkeys(prompt.template.fields, "...")
    send = [f"    curl {url}{_PATH[name]} -H 'Content-Type: application/json' -d @{name}" for name in requests]
    return _TEXT.format(
        title=TITLES[engine],
        model=backbone.name,
        count=prompt.length,
        size=backbone.embedding_size,
        requests="\n".join(send),
        start=_START[engine].format(model=backbone.name),
        url=url,
        engine=engine,
        fields=repr(fields) if not chat else '{"messages": \'[{"role": "user", "content": "..."}]\'}',
        by_hand=_CHAT if chat else _BY_HAND.format(steps="\n".join(_steps(prompt, backbone))),
        answer=_answer(prompt, bound, engine),
    )


def _answer(prompt: SoftPrompt, bound: BoundPrompt, engine: Engine) -> str:
    readout = prompt.readout
    if isinstance(readout, Text):
        bounds = Bounds.of(bound)
        ends = f"at the tokens {list(bounds.stop_tokens)}" + "".join(f", before the text {s!r}" for s in bounds.stop)
        lead = f" It begins with {bounds.lead!r}, which is no part of it." if bounds.lead else ""
        return f"The answer is the text that comes back.{lead} It ends {ends}, or after {bounds.max_tokens} tokens."
    assert isinstance(readout, LabelWords), "other readouts were refused before"
    field = "`logprob_token_ids`" if engine == "vllm" else "`token_ids_logprob`"
    words = "\n".join(f"- {label}: `{word!r}`" for label, word in zip(readout.labels, readout.words, strict=True))
    share = "the softmax over those tokens alone" if readout.scoring == "trie" else "the log-probabilities added up"
    temper = f" Divide log-probabilities by {prompt.temperature:g}." if prompt.temperature != 1 else ""
    return (
        f"The answer is a label. Each place where the words of the labels part is one request, whose {field} are the\n"
        f"tokens that may follow there; a label's probability is the product of {share}, along its words.{temper}\n\n"
        f"{words}"
    )


def _steps(prompt: SoftPrompt, backbone: Backbone) -> Iterator[str]:
    """Lines of Python that gather a row's token ids, virtual token k as -1-k."""
    slots, slot, start = prompt.template.soft_slots, 0, 0
    for piece in prompt.template.pieces:
        if isinstance(piece, Soft):
            count = prompt.length // slots + (slot < prompt.length % slots)  # shared out as templates do
            yield f"    ids += {[-1 - k for k in range(start, start + count)]}"
            slot, start = slot + 1, start + count
        else:
            yield f"    ids += {_step(piece, backbone)}"


def _step(piece: Piece, backbone: Backbone) -> str:
    if isinstance(piece, Bos | Sep):
        token = backbone.special.bos if isinstance(piece, Bos) else backbone.special.sep
        return "[]" if token is None else f"[{token}]"
    assert isinstance(piece, Literal | Field), "a decoder's template has no mask"
    text = repr(piece.text) if isinstance(piece, Literal) else f"row[{piece.name!r}]"
    lead = f"{piece.lead!r} + " if isinstance(piece, Field) and piece.lead else ""
    return f"tokenizer.encode({lead}{text}, add_special_tokens=False)"
