"""The door to vLLM: everything that is asked of it in this process, and nothing of it is named anywhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from softprompt.errors import BackboneError, MissingExtraError
from softprompt.modeling.sampling import Sampling
from softprompt.serving.payloads import MOST_CHOICES
from softprompt.shapes import Float


class Wish(NamedTuple):
    """What is wanted behind an embedded row.

    Attributes:
        max_tokens: most tokens.
        ends: tokens at which it ends; no other token ends it.
        sampling: how tokens are chosen.
        likeliest: how many of the likeliest tokens are told at each token.
        told: tokens whose log-probabilities are told at each token, in place of the likeliest.
    """

    max_tokens: int
    ends: tuple[int, ...] = ()
    sampling: Sampling = Sampling()
    likeliest: int = 0
    told: tuple[int, ...] = ()


class Fresh(NamedTuple):
    """What a step gave one request.

    Attributes:
        name: the request's.
        tokens: that are new, each with the log-probabilities that were told in its place, by token.
        finished: nothing more will come.
    """

    name: str
    tokens: tuple[tuple[int, Mapping[int, float]], ...]
    finished: bool


@runtime_checkable
class Stepping(Protocol):
    """An engine that takes embedded rows and goes on token by token."""

    def add(self, name: str, rows: Float[Tensor, "T D"], wish: Wish) -> None:
        """Take a request in.

        Raises:
            BackboneError: it is refused.
        """
        ...

    def abort(self, name: str) -> None:
        """Give a request up."""
        ...

    def step(self) -> Sequence[Fresh]:
        """Run one step and return what it gave."""
        ...


class InProcess:
    """A vLLM engine in this process, which takes embedded rows and steps when it is told to.

    Args:
        model: a hub id or a folder.
        options: further arguments of vLLM's `EngineArgs`: `dtype`, `tensor_parallel_size`, `gpu_memory_utilization`,
            `max_model_len` and the like.

    Raises:
        MissingExtraError: vLLM is not installed.
    """

    def __init__(self, model: str, **options: Any) -> None:
        try:
            import vllm
            from vllm.sampling_params import RequestOutputKind
        except ImportError as error:
            raise MissingExtraError(
                'the engine `vllm` needs vLLM, which is not installed: pip install "softprompt[vllm]"'
            ) from error
        self._params, self._delta = vllm.SamplingParams, RequestOutputKind.DELTA
        arguments = {"enable_prompt_embeds": True, "max_logprobs": MOST_CHOICES, "disable_log_stats": True}
        self._engine = vllm.LLMEngine.from_engine_args(vllm.EngineArgs(model=model, **arguments, **options))

    def add(self, name: str, rows: Float[Tensor, "T D"], wish: Wish) -> None:
        """Take a request in.

        Raises:
            BackboneError: vLLM refuses it: more tokens than it has room for, for instance.
        """
        try:
            self._engine.add_request(name, {"prompt_embeds": rows.cpu()}, self._settings(wish))
        except ValueError as error:
            raise BackboneError(f"vLLM refused the request: {error}") from error

    def abort(self, name: str) -> None:
        """Give a request up."""
        self._engine.abort_request([name])

    def step(self) -> Sequence[Fresh]:
        """Run one step of vLLM's and return what it gave."""
        out = []
        for output in self._engine.step():
            (found,) = output.outputs
            told = found.logprobs or [{}] * len(found.token_ids)
            tokens = [
                (int(token), {int(other): float(each.logprob) for other, each in place.items()})
                for token, place in zip(found.token_ids, told, strict=True)
            ]
            out.append(Fresh(output.request_id, tuple(tokens), bool(output.finished)))
        return out

    def _settings(self, wish: Wish) -> Any:
        """Return a wish in vLLM's form: tokens only, for text, stops and answers are made of them here."""
        sampling = wish.sampling
        drawn = {"top_p": sampling.top_p, "top_k": sampling.top_k, "min_p": sampling.min_p, "seed": sampling.seed}
        told = {"logprob_token_ids": [*wish.told]} if wish.told else {"logprobs": wish.likeliest}
        return self._params(
            max_tokens=wish.max_tokens,
            temperature=sampling.temperature,
            stop_token_ids=[*wish.ends],
            ignore_eos=True,  # of all tokens only those named end an answer
            detokenize=False,
            output_kind=self._delta,
            **({} if sampling.greedy else drawn),
            **told,
        )
