"""The run that a flow leads: opened once, by starting or by resuming it, and handed to every task.

In: what the flow was asked for. Out: a `LedRun`. Its lock is held until the flow ends, so that no
other flow leads the same run. Knows no task and no tracker.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hgt.config import RunConfig, parameters
from hgt.errors import InputError, explaining_full_disk
from hgt.memory.plan import Planner
from hgt.run.folder import RunFolder
from hgt.run.opened import LoadedRun
from hgt.whole_file import written_whole
from tasks.home import check_new_run, find_run, new_run_id, run_folder, user_path
from tasks.outputs import claim_embeddings_csv, refuse_used_run_folder


class LedRun:
    """One run in this process, and what was read or computed of it once.

    folder: its run folder
    config: its configuration, with what a resume gives anew
    kg: the file of a new run; None for a run that is resumed
    csv: another file for the embeddings, and whether it may replace one that is there
    device: what this very call was sent to
    loaded: its graph and split, from task `load` to task `plan`: training wants the memory
    planner: plans its stretches, from task `plan` on
    """

    planner: Planner

    def __init__(
        self,
        folder: RunFolder,
        config: RunConfig,
        kg: Path | None = None,
        csv: tuple[Path, bool] | None = None,
        device: str | None = None,
        held: contextlib.ExitStack | None = None,
    ):
        self.folder, self.config, self.kg = folder, config, kg
        self.csv, self.device = csv, device
        self._held = held or contextlib.ExitStack()
        self.loaded: LoadedRun | None = None

    @property
    def name(self) -> str:
        """The run's id."""
        return self.folder.path.name

    def lead(self) -> None:
        """From now on the folder is a run's, and no other flow may lead it. Raises RunLocked."""
        self._held.enter_context(self.folder.led())

    @contextlib.contextmanager
    def taken_back_when_refused(self) -> Iterator[None]:
        """A resumed run is configured, placed and planned as before if what was given anew is
        refused within the block: the next resume must not meet it."""
        if self.kg is not None:
            yield
            return
        files = (self.folder.config, self.folder.segments, self.folder.plan)
        kept = {file: file.read_bytes() if file.is_file() else None for file in files}
        try:
            self.config.save(self.folder.config)
            yield
        except InputError:
            for file, content in kept.items():
                _put_back(file, content)
            raise


def _put_back(file: Path, content: bytes | None) -> None:
    if content is None:
        file.unlink(missing_ok=True)
        return
    with written_whole(file) as new:
        new.write_bytes(content)


@contextlib.contextmanager
def start_run(
    kg: str, run_id: str | None, csv: tuple[str, bool] | None, values: Mapping[str, Any]
) -> Iterator[LedRun]:
    """A new run. Nothing is written before its graph is read.

    csv: path, and whether it may replace a file; values: parameters. Raises InputError.
    """
    name = run_id or new_run_id()
    check_new_run(name)
    refuse_used_run_folder(name)
    config = RunConfig.from_flat(dict(values))
    output = csv and (claim_embeddings_csv(csv[0], kg, None, csv[1]), csv[1])
    with contextlib.ExitStack() as held:
        file = user_path(kg).resolve()
        yield LedRun(run_folder(name), config, file, output, values.get("device"), held)


@contextlib.contextmanager
def resume_run(
    name: str, csv: tuple[str, bool] | None, values: Mapping[str, Any]
) -> Iterator[LedRun]:
    """A run that goes on; values: parameters given anew, none of which may change its result.

    Raises InputError, and RunLocked while another flow leads the run.
    """
    folder = run_folder(find_run(name))
    with contextlib.ExitStack() as held:
        held.enter_context(explaining_full_disk(folder.path))
        run = LedRun(folder, folder.load_config(), device=values.get("device"), held=held)
        run.lead()
        run.config = _given_anew(run, values)
        if csv is not None:
            run.csv = claim_embeddings_csv(csv[0], None, run.name, csv[1]), csv[1]
        yield run


def _given_anew(run: LedRun, values: Mapping[str, Any]) -> RunConfig:
    kept = run.folder.load_config()
    config = RunConfig.from_flat(kept.to_flat() | values)
    if config.fingerprint() != kept.fingerprint():
        old, new = kept.to_flat(), config.to_flat()
        names = [p.name for p in parameters() if p.changes_result and old[p.name] != new[p.name]]
        changed = ", ".join(f"{name} {old[name]} -> {new[name]}" for name in names)
        raise InputError(
            f"Run {run.name} cannot go on with another configuration: {changed}. Start a new run"
            " for it."
        )
    return config
