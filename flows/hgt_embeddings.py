"""The flow `hgt-embeddings`: which task follows which. Its parameters are those of `hgt/config.py`, derived from there."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Annotated, Any

from tasks.tracking.tracker import tracked  # isort: skip - `tasks` switches telemetry off before prefect is imported
from prefect import flow
from prefect.client.schemas import State
from prefect.states import Completed, Failed
from pydantic import Field

from hgt.config import RunConfig, parameters
from hgt.errors import InputError, explaining_full_disk
from hgt.parameter import Parameter
from hgt.whole_file import written_whole
from tasks.baselines import baselines
from tasks.embed import embed
from tasks.evaluate import evaluate
from tasks.home import check_new_run, find_run, new_run_id, run_folder, user_path
from tasks.load import load
from tasks.outputs import claim_embeddings_csv, refuse_used_run_folder
from tasks.plan import plan
from tasks.probe import probe
from tasks.tracking.registry import register, withdraw
from tasks.train import attempts, train
from tasks.validate import Verdict, validate

REJECTED = "Rejected"
# What a flow run takes besides the parameters of the configuration: (name, what it is).
_REFERENCES = (
    ("kg", "path of a knowledge graph in PrimeKG's columns: CSV (packed or not), Parquet, or a folder of parts"),
    ("resume", "id or path of a run to go on with, instead of kg"),
    ("run_id", "name of the new run; made from the time when not given"),
    ("output_csv", "path of an additional CSV of the embeddings"),
    ("overwrite", "whether output_csv may replace a file that the run did not write itself"),
)

_REFERENCE_KINDS = {"overwrite": bool}  # all others are texts


def train_embeddings(
    kg: str | None,
    resume: str | None,
    run_id: str | None,
    output_csv: str | None,
    overwrite: bool | None,
    **given: Any,
) -> State[Verdict]:
    """Learn embeddings of a knowledge graph and say whether they can be trusted."""
    values = {name: value for name, value in given.items() if value is not None}
    with contextlib.ExitStack() as held:
        if resume is None:
            run, config = _new_run(kg, run_id, values)
        else:
            run = _run_to_resume(kg, resume)
            held.enter_context(explaining_full_disk(run_folder(run).path))
            held.enter_context(run_folder(run).led())
            config = _resumed(run, values)
        csv = None
        if output_csv is not None:
            csv = claim_embeddings_csv(output_csv, kg, resume and run, bool(overwrite))
        output = None if csv is None else (str(csv), bool(overwrite))
        return _lead(run, config, kg, output, values.get("device"), held)


def _lead(
    run: str,
    config: RunConfig,
    kg: str | None,
    csv: tuple[str, bool] | None,
    device: str | None,
    held: contextlib.ExitStack,
) -> State[Verdict]:
    """Runs all tasks in order.

    csv: path, and whether it may replace a file; device: asked for in this call; held: takes the
    lock of a new run as soon as there is one
    """
    with tracked(run_folder(run)) as tracker:
        with _taken_back_when_refused(run) if kg is None else contextlib.nullcontext():
            if kg is None:
                config.save(run_folder(run).config)
            found = probe(config, tracker)
            run = load(kg and str(user_path(kg).resolve()), run, config, tracker)
            if kg is not None:
                held.enter_context(run_folder(run).led())
            run = plan(run, found, tracker, device)
            run = train.with_options(retries=attempts(config.train.max_shrinks))(run, found, tracker)
        tracker.has_changed = True
        run = embed(run, csv, tracker)
        run = evaluate(run, tracker)
        run = baselines(run, tracker)
        verdict = validate(run, tracker)
        (register if verdict.accepted else withdraw)(run, tracker)
    if verdict.accepted:
        return Completed(message=f"run {run} accepted", data=verdict)
    return Failed(name=REJECTED, message=f"run {run} rejected: {'; '.join(verdict.failed)}", data=verdict)


def _new_run(kg: str | None, run_id: str | None, values: dict[str, Any]) -> tuple[str, RunConfig]:
    if kg is None:
        raise InputError("Give kg, the path of a knowledge graph, or resume, a run to go on with.")
    run = run_id or new_run_id()
    check_new_run(run)
    refuse_used_run_folder(run)
    return run, RunConfig.from_flat(values)


def _run_to_resume(kg: str | None, resume: str) -> str:
    if kg is not None:
        raise InputError("Give either kg or resume: a resumed run keeps the graph that it began with.")
    return find_run(resume)


@contextlib.contextmanager
def _taken_back_when_refused(run: str) -> Iterator[None]:
    """A resumed run is configured, placed and planned as it was when what was given anew is refused: the next resume must not meet it."""
    folder = run_folder(run)
    kept = {file: file.read_bytes() if file.is_file() else None for file in (folder.config, folder.segments, folder.plan)}
    try:
        yield
    except InputError:
        for file, content in kept.items():
            if content is None:
                file.unlink(missing_ok=True)
                continue
            with written_whole(file) as new:
                new.write_bytes(content)
        raise


def _resumed(run: str, values: dict[str, Any]) -> RunConfig:
    """The run's configuration with what is given anew; only what does not change the result may be."""
    kept = run_folder(run).load_config()
    config = RunConfig.from_flat(kept.to_flat() | values)
    if config.fingerprint() != kept.fingerprint():
        old, new = kept.to_flat(), config.to_flat()
        changed = ", ".join(
            f"{p.name} {old[p.name]} -> {new[p.name]}" for p in parameters() if p.changes_result and old[p.name] != new[p.name]
        )
        raise InputError(f"Run {run} cannot go on with another configuration: {changed}. Start a new run for it.")
    return config


def _signature() -> inspect.Signature:
    """kg, resume, ... and every parameter of the configuration, optional all of them: None keeps the default."""
    names = {name: _REFERENCE_KINDS.get(name, str) | None for name, _ in _REFERENCES}
    names |= {p.name: _annotation(p) for p in parameters()}
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Signature([inspect.Parameter(name, keyword, annotation=kind, default=None) for name, kind in names.items()])


def _annotation(p: Parameter) -> Any:
    if p.range is None:
        return (list[p.type] if p.is_list else p.type) | None  # type: ignore[name-defined]
    low, high = "gt" if p.range.open_low else "ge", "lt" if p.range.open_high else "le"
    limits = Field(**{low: p.range.low, high: p.range.high})  # type: ignore[arg-type]
    return Annotated[p.type, limits] | None  # type: ignore[name-defined]


def _docstring() -> str:
    lines = [f"    {name}: {what}" for name, what in _REFERENCES]
    lines += [f"    {p.name}: {p.help} (default {p.default}{' ' + p.unit if p.unit else ''})" for p in parameters()]
    return f"{train_embeddings.__doc__}\n\nArgs:\n" + "\n".join(lines)


def _with_parameters(function: Any) -> Any:
    """Give the function the signature that Prefect shows, checks and documents."""

    def hgt_embeddings(**given: Any) -> State[Verdict]:
        references = {name: given.pop(name, None) for name, _ in _REFERENCES}
        return function(**references, **given)

    hgt_embeddings.__signature__ = _signature()  # type: ignore[attr-defined]
    hgt_embeddings.__doc__ = _docstring()
    hgt_embeddings.__annotations__ = {}
    return hgt_embeddings


hgt_embeddings = flow(name="hgt-embeddings")(_with_parameters(train_embeddings))
