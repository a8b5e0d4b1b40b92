"""A Mac on Linux: a CPU that computes and an "mps" device whose tensors have shapes and no data,
and a record of what was asked of it.

Operations on CPU tensors alone run as they are. One that touches the device runs on FakeTensors, is
recorded, and is judged: by the rules of `checks.py`, and by whether each version of torch that is
asked about has a kernel. Autograd, modules and optimizers are torch's own.

Three things make a Linux build behave as a macOS build does:
- `guard.cpp` tells the autograd engine that the device exists.
- Composite functions with an MPS kernel of their own (`linear`) get a placeholder for it, so that
  autograd keeps them whole.
- A composite function without one is judged by what it calls: its composite kernel is run as
  well, once for each signature.

All of it is process-wide, so it belongs into a process of its own (`fake_step.py`).
"""

from __future__ import annotations

import functools
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    UnsupportedOperatorException,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from tests.mps import checks
from tests.mps.checks import Call

_HERE = Path(__file__).parent
_TORCH = Path(torch.__file__).parent
_NOT_THE_PROGRAM = (
    f"{_TORCH}/",
    *(str(_HERE / f"{name}.py") for name in ("fake_mac", "checks", "fake_step")),
)
_COMPOSITE = (
    "CompositeImplicitAutograd",
    "CompositeExplicitAutograd",
    "CompositeExplicitAutogradNonFunctional",
)
# Composite kernels that do not call others: they share the storage, or (`copy_`) have a branch for
# MPS in C++.
_ANY_DEVICE = frozenset({"copy_", "detach", "detach_", "alias", "lift", "lift_fresh"})

_placeholders: list[torch.library.Library] = []  # they last as long as the library object does


def compile_guard(folder: Path) -> Path:
    """Compile guard.cpp with g++, in two seconds. Raises CalledProcessError after the compiler's
    own words.
    """
    library = folder / "guard.so"
    paths = [f"-I{_TORCH / 'include'}", f"-L{_TORCH / 'lib'}"]
    subprocess.run(
        [
            "g++",
            "-std=c++20",
            "-shared",
            "-fPIC",
            _HERE / "guard.cpp",
            *paths,
            "-ltorch_cpu",
            "-lc10",
            "-o",
            library,
        ],
        check=True,
    )
    return library


def install(guard: Path, kernels: frozenset[str]) -> None:
    """Make this process believe in the device. To be called before the device is first named."""
    torch.ops.load_library(guard)
    library = torch.library.Library("aten", "IMPL")
    for name in sorted(kernels):
        if torch._C._dispatch_has_kernel_for_dispatch_key(
            f"aten::{name}", "CompositeImplicitAutograd"
        ):
            library.impl(name, _never_called, "MPS")
    _placeholders.append(library)
    # Module.to cannot put fake data into a real parameter
    torch.__future__.set_overwrite_module_params_on_conversion(True)


def _never_called(*_: object, **__: object) -> None:
    raise AssertionError("FakeTensors are dispatched before the device's kernels")


@dataclass(frozen=True)
class Violation:
    """kind: as in `checks.py`, or "no kernel", "shapes differ", "error"; where: the innermost line
    outside torch.
    """

    kind: str
    operation: str
    where: str
    detail: str


class TraceEnded(Exception):
    """The program cannot go on without data; the violation that says so has been recorded."""


@dataclass
class Record:
    """What was asked of the device.

    violations: each with how often it occurred; operations: kernels with the number of their calls
    sequence: the program's own calls: what MPS keeps its graphs and pipelines under, and where
    copies_to_device: how many of those calls were copies from the CPU
    """

    violations: Counter[Violation] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    sequence: list[tuple[tuple[Any, ...], str]] = field(default_factory=list)
    copies_to_device: int = 0


@dataclass(frozen=True)
class _Verdict:
    """What is to be said of a call wherever it occurs: (kind, operation, detail) of each objection,
    and the kernels that it needs.
    """

    objections: list[tuple[str, str, str]]
    kernels: Counter[str]


class FakeMac(TorchDispatchMode):
    """`with FakeMac({"2.13.0": names of functions with a kernel}) as mac: ...`, then read
    `mac.record`.

    The first version is that of the torch which runs: it says which composite functions are to be
    taken apart.
    """

    def __init__(self, kernels: Mapping[str, frozenset[str]]):
        super().__init__()
        self.record = Record()
        self._kernels = kernels
        self._installed = next(iter(kernels.values()))
        self._fake = FakeTensorMode(allow_fallback_kernels=False)
        self._verdicts: dict[Any, _Verdict] = {}  # by Call.key
        self._depth = 0  # of composites that are being taken apart
        self._places: dict[int, str] = {}  # by the number of the autograd node

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # in every thread: torch.tensor(1, device="mps") is a CPU tensor and a copy
        torch._C._set_only_lift_cpu_tensors(True)
        if func.namespace == "prim":  # C++ asks for the device
            return args[0].fake_device
        call = Call(_name(func), args, kwargs or {})
        if call.device != "mps" and all(t.device.type != "mps" for t in call.tensors):
            return func(*args, **call.kwargs)
        where = self._where()
        if call.key not in self._verdicts:
            self._verdicts[call.key] = self._judge(func, call)
        verdict = self._verdicts[call.key]
        self.record.operations.update(verdict.kernels)
        self.record.violations.update(
            Violation(kind, operation, where, detail)
            for kind, operation, detail in verdict.objections
        )
        try:
            result = self._run(func, call)
        except (DynamicOutputShapeException, DataDependentOutputException) as error:
            self._note(
                call,
                where,
                [("host synchronisation", "the result's shape or value depends on the data")],
            )
            raise TraceEnded(call.name) from error
        except (UnsupportedOperatorException, NotImplementedError) as error:
            # a function that is refused anyway, and of which torch does not know the result's shape
            if verdict.objections:
                raise TraceEnded(call.name) from error
            raise
        self._note(call, where, checks.objections_to_tensors([result]))
        if not self._depth:
            self._note(call, where, self._wait_for_copy(call))
            self.record.sequence.append(
                ((call.name, *checks.shapes(call.tensors), "->", *checks.shapes([result])), where)
            )
        return result

    def _wait_for_copy(self, call: Call) -> Iterator[tuple[str, str]]:
        """A copy to the device returns when all is done that was asked of the device before
        (MPSStream::copy_and_sync).
        """
        if checks.copies_to_device(call):
            self.record.copies_to_device += 1
            if len(self.record.sequence) >= self.record.copies_to_device:
                yield (
                    "host synchronisation",
                    "a copy to the device, after other work was asked of it, waits for that work",
                )

    def _note(self, call: Call, where: str, objections: Iterable[tuple[str, str]]) -> None:
        self.record.violations.update(
            Violation(kind, call.name, where, detail) for kind, detail in objections
        )

    def _run(self, func: Any, call: Call) -> Any:
        """On fake tensors. So that the trace goes on, what is read from the device is 0, and
        misplaced operands are moved.
        """
        if call.packet == "_local_scalar_dense":
            return torch.zeros((), dtype=call.args[0].dtype).item()
        if checks.copies_to_host(call):
            dtype = call.kwargs.get("dtype") or call.args[0].dtype
            return (
                call.args[0]
                if call.packet == "copy_"
                else torch.zeros(call.args[0].shape, dtype=dtype)
            )
        args, kwargs = _numbers_as_tensors(func, call.args), call.kwargs
        if not all(
            isinstance(t, FakeTensor) for t in (*args, *call.tensors) if isinstance(t, Tensor)
        ):
            args, kwargs = tree_map_only(Tensor, self._as_fake, (args, kwargs))
        with self._fake:
            if checks.mixes_devices(call):
                args, kwargs = tree_map_only(
                    Tensor,
                    lambda t: torch.empty(t.shape, dtype=t.dtype, device="mps"),
                    (args, kwargs),
                )
            return func(*args, **kwargs)

    def _as_fake(self, tensor: Tensor) -> FakeTensor:
        return tensor if isinstance(tensor, FakeTensor) else self._fake.from_tensor(tensor.detach())

    def _judge(self, func: Any, call: Call) -> _Verdict:
        objections = [(kind, call.name, detail) for kind, detail in checks.objections_to_call(call)]
        if call.name in _ANY_DEVICE:
            return _Verdict(objections, Counter())
        composite = [
            k for k in _COMPOSITE if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), k)
        ]
        if composite and call.name not in self._installed:
            inner = self._take_apart(func, composite[0], call)
            return _Verdict(
                [*objections, *((v.kind, v.operation, v.detail) for v in inner.violations)],
                inner.operations,
            )
        without = [
            version
            for version, names in self._kernels.items()
            if func.namespace != "aten" or call.name not in names
        ]
        return _Verdict(
            [*objections, *(("no kernel", call.name, f"torch {version}") for version in without)],
            Counter([call.name]),
        )

    def _take_apart(self, func: Any, kernel: str, call: Call) -> Record:
        """What a composite function calls."""
        outer, self.record = self.record, Record()
        self._depth += 1
        try:
            with self:
                func._op_dk(getattr(torch._C.DispatchKey, kernel), *call.args, **call.kwargs)
        except TraceEnded:
            outer.violations.update(self.record.violations)
            raise
        finally:
            inner, self.record = self.record, outer
            self._depth -= 1
        return inner

    def _where(self) -> str:
        """The innermost line of the program; for a backward node of torch's own, the line of its
        forward.
        """
        frame = sys._getframe(2)
        while frame is not None and (file := _file(frame.f_code.co_filename)) is None:
            frame = frame.f_back
        # autograd's thread for the device has no lines but those of Python functions
        if frame is None:
            node = torch._C._current_autograd_node()
            return (
                ""
                if node is None
                else (
                    f"backward of {self._places.get(node._sequence_nr(), 'a leaf')} ({node.name()})"
                )
            )
        place = f"{file}:{frame.f_lineno} {frame.f_code.co_name}"
        # the node was made just before, with the number before the next one
        if torch.is_grad_enabled():
            self._places.setdefault(torch._C._autograd._get_sequence_nr() - 1, place)
        return place


def _numbers_as_tensors(func: Any, args: tuple) -> tuple:
    """torch hands a number that C++ wrapped as a tensor on as a number, which not every function
    takes back (bitwise_and).
    """
    expected = [str(argument.type) for argument in func._schema.arguments]
    return tuple(
        torch.tensor(a) if isinstance(a, int | float) and t == "Tensor" else a
        for a, t in zip(args, expected, strict=False)
    )


@functools.cache
def _file(path: str) -> str | None:
    """The last three parts of the path of a file of the program, None for torch's and for this
    machinery's.
    """
    return None if path.startswith(_NOT_THE_PROGRAM) else "/".join(Path(path).parts[-3:])


@functools.cache
def _name(func: Any) -> str:
    """As in native_functions.yaml: "add.Tensor"."""
    name = func._schema.name.split("::")[1]
    return f"{name}.{func._schema.overload_name}" if func._schema.overload_name else name
