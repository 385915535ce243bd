"""Every operator that runs, seen on its way: what it computes, what it moves, and which tensors are alive after it."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map


class Spec(NamedTuple):
    """A tensor without its numbers."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


@dataclass
class Work:
    """One operator on tensors of certain shapes.

    Attributes:
        operator: torch's own.
        arguments: positional and named ones, each tensor a `Spec`.
        calls: how often a step runs it.
        flops: of one call.
        moved: bytes read and written by one call.
    """

    operator: Any
    arguments: tuple[Any, Any]
    calls: int
    flops: int
    moved: int

    @property
    def key(self) -> str:
        """What tells it from the others."""
        return f"{self.operator} {self.arguments}"


class Seen(TorchDispatchMode):
    """Sees every operator: what it computes, what it moves, and which tensors are alive after it.

    Args:
        known: tensors that are there before and are not counted: the model's own.
    """

    def __init__(self, known: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.work: dict[Any, Work] = {}
        self.graph = self.peak = self.prefix = self._alive = 0
        self._times = 1
        self._sizes: dict[int, Any] = {tensor.untyped_storage()._cdata: None for tensor in known}
        self._known = list(known)

    def between(self) -> None:
        """Note what is alive between the forward and the backward pass."""
        self.graph = max(self.graph, self._alive)

    @contextmanager
    def repeated(self, times: int) -> Iterator[None]:
        """Count what runs in the block so many times."""
        self._times, before = times, self._times
        yield
        self._times = before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and write it down."""
        out = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        fresh = [tensor for tensor in made if self._note(tensor)]
        if fresh or func._schema.is_mutable:
            self._write(func, args, kwargs or {}, made)
        return out

    def _note(self, tensor: Tensor) -> bool:
        """Count a tensor's memory until it is let go; return whether it is new."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._sizes:
            return False
        self._alive += size
        self.peak = max(self.peak, self._alive)

        def gone(_: Any) -> None:
            self._alive -= size
            self._sizes.pop(key, None)

        self._sizes[key] = weakref.ref(storage, gone)
        return True

    def _write(self, func: Any, args: Any, kwargs: Any, made: Sequence[Tensor]) -> None:
        key = (func, _told(args), _told(tuple(kwargs.items())))
        if key not in self.work:
            told = tree_map(_spec, (args, kwargs))
            read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            moved = sum(min(t.nbytes, t.untyped_storage().nbytes()) for t in (*read, *made))
            moved = 0 if _only_makes(func) else moved
            self.work[key] = Work(func, told, 0, _flops(func, args, kwargs, made), moved)
        self.work[key].calls += self._times


def _told(given: Any) -> Any:
    """What tells arguments apart, quickly: this is asked for every operator that runs."""
    if isinstance(given, Tensor):
        return given.shape, given.stride(), given.dtype
    if isinstance(given, tuple | list):
        return tuple(map(_told, given))
    return given if isinstance(given, int | float | str | bool) else str(given)


def _spec(leaf: Any) -> Any:
    return Spec(tuple(leaf.shape), leaf.stride(), leaf.dtype) if isinstance(leaf, Tensor) else leaf


def _only_makes(func: Any) -> bool:
    """Whether an operator hands out memory without touching it."""
    return str(func).startswith(("aten.empty", "aten.new_empty"))


def _flops(func: Any, args: Any, kwargs: Any, made: Sequence[Tensor]) -> int:
    """Two for each multiplication and addition of a matrix product; a fused attention has two products, back five."""
    from torch.utils.flop_counter import flop_registry

    name = str(func)
    if "scaled_dot_product" in name:
        back = "backward" in name
        query, key = (args[1], args[2]) if back else (args[0], args[1])
        B, heads, T, K = query.shape
        return int((10 if back else 4) * B * heads * T * key.shape[2] * K)
    count = flop_registry.get(func._overloadpacket)
    return int(count(*args, **kwargs, out_val=made[0] if len(made) == 1 else tuple(made))) if count else 0
