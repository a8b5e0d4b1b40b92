"""Bytes of live tensors, counted operation by operation on the CPU: what an accelerator's allocator
would hold, without one.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveBytes(TorchDispatchMode):
    """`with LiveBytes() as live: ...; live.peak`. Tensors made before count when they are in
    `standing`.

    Counts what operations give back. What one takes for itself and frees again is left out, as is
    the allocator's rounding.
    """

    def __init__(self, standing: Any = ()):
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()
        self.counting = True
        self._add(tensors_in(standing))

    def add(self, value: Any) -> None:
        """Tensors that come without an operation."""
        self._add(tensors_in(value))

    def elsewhere(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with its tensors uncounted, as if it worked in another memory. Results that
        come over are for `add`.
        """

        def uncounted(*args: Any, **kwargs: Any) -> Any:
            self.counting = False
            try:
                return function(*args, **kwargs)
            finally:
                self.counting = True

        return uncounted

    def _add(self, tensors: Iterator[Any]) -> None:
        for tensor in tensors:
            # a sparse one consists of dense ones
            if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
                continue
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key in self.known or not size:
                continue
            self.known.add(key)
            self.now += size
            weakref.finalize(storage, self._remove, key, size)
        self.peak = max(self.peak, self.now)

    def _remove(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if self.counting:
            self._add(tree_iter(out))
        return out


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor in nested lists, tuples, dicts and dataclasses."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for member in value:
            yield from tensors_in(member)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
    elif dataclasses.is_dataclass(value):
        yield from tensors_in([getattr(value, f.name) for f in dataclasses.fields(value)])
