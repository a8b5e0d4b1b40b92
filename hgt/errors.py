"""The one hierarchy of errors. Each message says what happened, the values seen, and what to do."""

from __future__ import annotations


class HgtError(Exception):
    """Any failure that this product explains itself; `exit_code` is what a program ends with."""

    exit_code = 1


class InputError(HgtError):
    """The user's file, option or run folder is wrong; nothing was changed."""

    exit_code = 2


class CheckpointError(InputError):
    """A checkpoint is unreadable, or belongs to another graph or configuration."""


class RunLocked(InputError):
    """Another process works on the same run folder."""


class OutOfMemory(HgtError):
    """A device or the host ran out of memory (DESIGN.md 3); the only failure that may move a run elsewhere."""

    exit_code = 4


class TrainingDiverged(HgtError):
    """A loss or a gradient is NaN or infinite."""
