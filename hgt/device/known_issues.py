"""Combinations of torch, chip and macOS that are known to be bad, in one table: what happens, and
how our code avoids it.

In: a `Machine`. Out: the issues that it has. Numbers are pytorch's issues; read 2026-11, nothing of
it was seen on a Mac of ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Version = tuple[int, ...]


@dataclass(frozen=True)
class Machine:
    """device: mps, cuda or cpu; chip: such as "Apple M1 Pro"; macos: None elsewhere; torch: (2,
    13).
    """

    device: str
    chip: str
    macos: Version | None
    torch: Version
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class KnownIssue:
    """what: the symptom; avoided: how our code avoids it, or "" where the user must act
    from_torch, before_torch: versions that have it (None: every one so far); chips: beginnings of
        their names (none: all)
    before_macos: it takes an older macOS; variable: it takes this environment variable to be set,
        and not to "0"
    explains_gradients: gradients that differ from the CPU's may come from it
    """

    number: str
    what: str
    avoided: str = ""
    from_torch: Version = (0,)
    before_torch: Version | None = None
    chips: tuple[str, ...] = ()
    before_macos: Version | None = None
    variable: str = ""
    explains_gradients: bool = False

    def concerns(self, machine: Machine) -> bool:
        """Every row of the table is about Macs."""
        return (
            machine.macos is not None
            and self.from_torch <= machine.torch
            and (self.before_torch is None or machine.torch < self.before_torch)
            and (not self.chips or machine.chip.startswith(self.chips))
            and (self.before_macos is None or machine.macos < self.before_macos)
            and (not self.variable or machine.environment.get(self.variable, "0") != "0")
            and (machine.device == "mps" or bool(self.before_macos))
        )

    def text(self) -> str:
        return (
            f"{self.number}: {self.what}."
            f" {f'Avoided: {self.avoided}' if self.avoided else 'Not avoided'}."
        )


_OLD_CHIPS = ("Apple M1", "Apple M2")
_SHORT_REDUCTIONS = "no product of the training step reduces over more than 32,000 rows"

KNOWN_ISSUES = (
    KnownIssue(
        "pytorch 177116, 193487",
        "matrix products (mm, linear and their gradients) that reduce over 32,767 rows or more add"
        " what lies behind the operands in memory",
        _SHORT_REDUCTIONS,
        from_torch=(2, 7),
        before_torch=(2, 14),  # pytorch 183535, which leaves 32,767 and 32,768 wrong
        chips=_OLD_CHIPS,
        explains_gradients=True,
    ),
    KnownIssue(
        "pytorch 195163",
        "the same in batched products (bmm, baddbmm, einsum), and in 2.14 still at exactly 32,767"
        " and 32,768 rows in the others",
        _SHORT_REDUCTIONS,
        from_torch=(2, 7),
        chips=_OLD_CHIPS,
        explains_gradients=True,
    ),
    KnownIssue(
        "pytorch 189495",
        "linear with a bias on inputs of three dimensions writes to wrong rows from 65,537"
        " batches on",
        "inputs of linear have two dimensions",
        from_torch=(2, 12),
    ),
    KnownIssue(
        "pytorch 139550, 189690",
        "copies with non_blocking=True may read memory that was freed",
        "every copy waits",
    ),
    KnownIssue(
        "pytorch 193571",
        "a GPU command that failed, for memory too, raises nothing and leaves garbage behind",
        "the cap on memory; a loss that is not finite stops training, and is put down to memory"
        " where Metal said so",
    ),
    KnownIssue(
        "pytorch 149325, 143859",
        "operations on tensors over 4 GB abort the process",
        "no tensor is that large, and training runs in a process of its own whose abort counts as"
        " out of memory",
    ),
    KnownIssue(
        "torch's default cap",
        "MPS may take 1.7 times the recommended memory, more than the Mac has: it swaps instead of"
        " failing",
        "the cap is set to the recommended memory or less",
    ),
    KnownIssue(
        "PYTORCH_ENABLE_MPS_FALLBACK",
        "it is set: operations without an MPS kernel run on the CPU unseen and slowly. Unset it",
        variable="PYTORCH_ENABLE_MPS_FALLBACK",
    ),
    KnownIssue(
        "PYTORCH_MPS_HIGH_WATERMARK_RATIO",
        "it is set: below 1.4 torch does not start on MPS unless PYTORCH_MPS_LOW_WATERMARK_RATIO is"
        " lower. Unset it, our cap replaces it",
        variable="PYTORCH_MPS_HIGH_WATERMARK_RATIO",
    ),
    KnownIssue(
        "macOS before 14",
        "torch has no MPS there. Update macOS; until then the CPU is used",
        before_macos=(14,),
    ),
)


def issues_of(machine: Machine) -> list[KnownIssue]:
    """The rows that concern this machine."""
    return [issue for issue in KNOWN_ISSUES if issue.concerns(machine)]
