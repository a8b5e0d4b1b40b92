"""The beginning and the end of the programs `hgt.train`, `hgt.embed`, `hgt.evaluate` and
`hgt.baselines`: exit codes and error events.

Exit codes: 0 done, 2 bad input, 4 out of memory, 128 + n stopped by signal n, 1 any other error.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Concatenate

from hgt.device.limits import configure_threads
from hgt.device.out_of_memory import translating_out_of_memory
from hgt.errors import HgtError, OutOfMemory, explaining_full_disk
from hgt.run.events import EventWriter
from hgt.run.folder import RunFolder

OnEvent = Callable[..., None]


def run_program(
    name: str, arguments: list[str], work: Callable[Concatenate[RunFolder, OnEvent, ...], None]
) -> int:
    """Call `work(folder, on_event, *further arguments)` for a run folder, and return the exit code.

    name: the program's name, for messages.
    arguments: path of the run folder, then arguments of `work`.
    """
    if not arguments:
        sys.stderr.write(f"usage: python -m hgt.{name} RUN_FOLDER\n")
        return 2
    folder = RunFolder(Path(arguments[0]))
    if not folder.config.exists():
        sys.stderr.write(
            f"{folder.path}: is no run folder (it has no config.json). Give a folder that `hgt"
            " train` made.\n"
        )
        return 2
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _stop_at_once)
    configure_threads()
    with contextlib.ExitStack() as held:
        try:
            with explaining_full_disk(folder.path):
                # The lock comes first: a refused program must not write events.
                held.enter_context(folder.locked())
                on_event = held.enter_context(contextlib.closing(EventWriter(folder.events)))
        except HgtError as error:
            sys.stderr.write(f"{error}\n")
            return error.exit_code
        try:
            # for errors outside of the phases of the plan
            with explaining_full_disk(folder.path), translating_out_of_memory("cpu", name):
                work(folder, on_event, *arguments[1:])
        # the outermost handler: it reports every error and swallows none
        except Exception as error:  # noqa: BLE001
            return _tell(error, on_event)
    return 0


def _stop_at_once(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)


def _tell(error: Exception, on_event: OnEvent) -> int:
    """Write the error event, and the message on stderr, which is enough where the disk is full.
    Returns the exit code.
    """
    details = error.details() if isinstance(error, OutOfMemory) else {}
    with contextlib.suppress(OSError):
        on_event(
            "error",
            type=type(error).__name__,
            message=str(error),
            out_of_memory=isinstance(error, OutOfMemory),
            **details,
        )
    if isinstance(error, HgtError):
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    traceback.print_exception(error)
    return 1
