"""What a Mac would not take, or would get wrong, judged from one operation's arguments alone.

In: a `Call` on fake tensors. Out: `(kind, detail)` for each objection. Which functions have a
kernel is not asked here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

# M1 and M2 add up what lies behind the operands from 32,767 on (pytorch 177116, 195163)
MAX_REDUCTION = 32_000
MAX_ELEMENTS = 2**31 - 1
MAX_BYTES = 2**32 - 1  # an NDArray of more aborts the process (pytorch 149325)
_NOT_ON_MPS = (torch.float64, torch.complex128)
_CONVERSIONS = ("_to_copy", "to")  # the second where there is no autograd to take it apart


@dataclass(frozen=True)
class Call:
    """One operation. name: as in native_functions.yaml, "add.Tensor"; packet: without the overload,
    "add".
    """

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def packet(self) -> str:
        return self.name.split(".")[0]

    @cached_property
    def leaves(self) -> list[Any]:
        """All arguments, those within lists one by one."""
        return list(_leaves([*self.args, *self.kwargs.values()]))

    @cached_property
    def tensors(self) -> list[Tensor]:
        return [leaf for leaf in self.leaves if isinstance(leaf, Tensor)]

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """Equal for calls about which the same is to be said."""
        others = (
            leaf.device.type if isinstance(leaf, Tensor) else str(leaf) for leaf in self.leaves
        )
        return self.name, *shapes(self.tensors), *others, *self.kwargs

    @property
    def device(self) -> str | None:
        """The type of the device that is asked for."""
        return next((leaf.type for leaf in self.leaves if isinstance(leaf, torch.device)), None)


def shapes(values: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    """Type and shape of the tensors among the values."""
    return ((leaf.dtype, *leaf.shape) for leaf in _leaves(values) if isinstance(leaf, Tensor))


def _leaves(values: Iterable[Any]) -> Iterator[Any]:
    """pytree's way takes five times as long."""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _leaves(value)
        else:
            yield value


def objections_to_call(call: Call) -> Iterator[tuple[str, str]]:
    if mixes_devices(call):
        yield "mixed devices", ", ".join(f"{t.device.type} {list(t.shape)}" for t in call.tensors)
    yield from _host_synchronisation(call)
    yield from _non_blocking_copy(call)
    yield from _long_reductions(call)
    yield from objections_to_tensors(call.tensors)


def objections_to_tensors(values: Iterable[Any]) -> Iterator[tuple[str, str]]:
    for leaf in _leaves(values):
        if isinstance(leaf, Tensor) and leaf.device.type == "mps":
            yield from _objections_to_tensor(leaf)


def _objections_to_tensor(tensor: Tensor) -> Iterator[tuple[str, str]]:
    shape = list(tensor.shape)
    if tensor.dtype in _NOT_ON_MPS:
        yield "float64", f"{tensor.dtype} {shape}"
    if tensor.numel() > MAX_ELEMENTS:
        yield "too many elements", f"{tensor.numel():,} in {shape}"
    if tensor.numel() * tensor.itemsize > MAX_BYTES:
        yield "too many bytes", f"{tensor.numel() * tensor.itemsize:,} in {tensor.dtype} {shape}"


def copies_to_device(call: Call) -> bool:
    return _copied(call) == ("cpu", "mps")


def copies_to_host(call: Call) -> bool:
    return _copied(call) == ("mps", "cpu")


def _copied(call: Call) -> tuple[str, str | None] | None:
    """From where and to where."""
    if call.packet in _CONVERSIONS:
        return call.args[0].device.type, call.device
    return (call.args[1].device.type, call.args[0].device.type) if call.packet == "copy_" else None


def mixes_devices(call: Call) -> bool:
    """A scalar tensor of the CPU may stand beside tensors of the device."""
    devices = {t.device.type for t in call.tensors if t.dim()}
    return len(devices) > 1 and _copied(call) is None


def _host_synchronisation(call: Call) -> Iterator[tuple[str, str]]:
    """What waits for the device. Results whose shape depends on the data show when the operation is
    run (`fake_mac.py`).
    """
    on_device = [t for t in call.tensors if t.device.type == "mps"]
    if call.packet == "_local_scalar_dense" and on_device:
        yield "host synchronisation", "a value is read from the device"
    if copies_to_host(call):
        yield "host synchronisation", f"a copy to the CPU of {[list(t.shape) for t in on_device]}"
    if (
        call.packet.strip("_") == "masked_fill"
        and call.name.endswith(".Tensor")
        and call.args[2].device.type == "mps"
    ):
        yield "host synchronisation", "masked_fill reads its value from the device"
    if call.packet.strip("_") == "masked_scatter":
        yield "host synchronisation", "the mask is turned into numbers"
    if call.packet.strip("_") in ("index_put", "index_put_impl", "unsafe_index_put"):
        masks = [t for t in call.args[1] if t is not None and t.dtype in (torch.bool, torch.uint8)]
        # becomes masked_fill
        fills = len(masks) == len(call.args[1]) == 1 and call.args[2].numel() == 1
        if masks and not fills:
            yield "host synchronisation", "a mask as index is turned into numbers"


def _non_blocking_copy(call: Call) -> Iterator[tuple[str, str]]:
    """Silently copies what stands in the source later on (pytorch 189690)."""
    non_blocking = call.kwargs.get("non_blocking") or (
        call.packet == "copy_" and len(call.args) > 2 and call.args[2]
    )
    if non_blocking and (copies_to_device(call) or copies_to_host(call)):
        yield (
            "non-blocking copy",
            ", ".join(f"{t.device.type} {list(t.shape)}" for t in call.tensors),
        )


def _long_reductions(call: Call) -> Iterator[tuple[str, str]]:
    for what, length in _matrix_reductions(call):
        if length > MAX_REDUCTION:
            yield (
                "long reduction",
                f"{what} over {length:,}: {[list(t.shape) for t in call.tensors]}",
            )


def _matrix_reductions(call: Call) -> Iterator[tuple[str, int]]:
    """The lengths over which a matrix product sums."""
    operands = [t.shape for t in call.tensors]
    match call.packet.rstrip("_"):
        case "mm" | "bmm" | "linear" | "mv" | "dot" | "vdot":
            yield "product", operands[0][-1]
        case "addmm" | "baddbmm" | "addmv" | "_addmm_activation":
            yield "product", operands[1][-1]
        case "addbmm":
            yield "product", operands[1][0] * operands[1][-1]
        case "linear_backward":
            _, grad, _, (input_wanted, weight_wanted, _) = call.args
            if input_wanted:
                yield "gradient of the input", grad.shape[-1]
            if weight_wanted:
                yield "gradient of the weight", math.prod(grad.shape[:-1])
