"""Bytes of live tensors, counted operation by operation on the CPU: what an accelerator's allocator would hold, without one."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveBytes(TorchDispatchMode):
    """`with LiveBytes() as live: ...; live.peak`. Tensors made before count when they are in `standing`."""

    def __init__(self, standing: Any = ()):
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()
        self._add(standing)

    def _add(self, tensors: Any) -> None:
        for tensor in tree_iter(tensors):
            if not isinstance(tensor, torch.Tensor):
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
        self._add(out)
        return out
