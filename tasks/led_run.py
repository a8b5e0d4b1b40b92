"""The run of a flow: opened once, when it starts or resumes, and passed to every task.

In: the flow's parameters. Out: a `LedRun`. It locks the run until the flow ends, so that no other
flow runs it at the same time. Knows no task and no tracker.
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
    """One run in this process, with the data that several tasks need.

    folder: its run folder
    config: its configuration, with the parameters that a resume changes
    kg: the graph file of a new run; None for a resumed run
    csv: path of a CSV for the embeddings, and whether it may replace an existing file
    device: the device that this call requested; None when it requested none
    loaded: graph and split, between the tasks `load` and `plan`; training needs the memory
    planner: plans the memory of each segment; set by the task `plan`
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
        """Lock the run for this flow. Raises RunLocked when another flow has locked it."""
        self._held.enter_context(self.folder.led())

    @contextlib.contextmanager
    def taken_back_when_refused(self) -> Iterator[None]:
        """Restore a resumed run's configuration, segments and plan when the block refuses it.

        Otherwise the next resume would use the refused parameters.
        """
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
    """A new run. It writes nothing before it has read its graph.

    kg: path of the graph file
    run_id: name of the run; None makes one from the date and time
    csv: path of a CSV for the embeddings, and whether it may replace an existing file
    values: parameters of the configuration

    Raises InputError.
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
    """A resumed run.

    name: id or folder of the run
    csv: path of a CSV for the embeddings, and whether it may replace an existing file
    values: changed parameters; none may change the result of the run

    Raises InputError, and RunLocked when another flow has locked the run.
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
            f"Run {run.name} cannot continue with another configuration: {changed}. Start a new"
            " run for it."
        )
    return config
