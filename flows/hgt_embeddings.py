"""The flow `hgt-embeddings`: the order of the tasks.

Its parameters are derived from `hgt/config/`.
"""

from __future__ import annotations

import contextlib
import inspect
from typing import Annotated, Any

# `tasks` switches telemetry off before prefect is imported
from tasks.tracking.tracker import tracked  # isort: skip
from prefect import flow
from prefect.client.schemas import State
from prefect.states import Completed, Failed
from pydantic import Field

from hgt.config import parameters
from hgt.errors import InputError
from hgt.parameter import Parameter
from tasks.baselines import baselines
from tasks.embed import embed
from tasks.evaluate import evaluate
from tasks.led_run import LedRun, resume_run, start_run
from tasks.load import load
from tasks.plan import plan
from tasks.probe import probe
from tasks.tracking.registry import register, withdraw
from tasks.train import attempts, train
from tasks.validate import Verdict, validate

REJECTED = "Rejected"
# Parameters of a flow run that are not in the configuration: (name, meaning).
_REFERENCES = (
    (
        "kg",
        (
            "path of a knowledge graph with PrimeKG's columns: CSV (compressed or not), Parquet,"
            " or a folder of part files"
        ),
    ),
    ("resume", "id or path of the run to continue, instead of kg"),
    ("run_id", "name of the new run; by default made from the date and time"),
    ("output_csv", "path of a CSV file to which the embeddings are also written"),
    ("overwrite", "whether output_csv may replace an existing file that the run did not write"),
)

_REFERENCE_KINDS = {"overwrite": bool}  # all others are strings


def train_embeddings(
    kg: str | None,
    resume: str | None,
    run_id: str | None,
    output_csv: str | None,
    overwrite: bool | None,
    **given: Any,
) -> State[Verdict]:
    """Train embeddings of a knowledge graph and decide whether to accept them."""
    values = {name: value for name, value in given.items() if value is not None}
    csv = None if output_csv is None else (output_csv, bool(overwrite))
    with _opened(kg, resume, run_id, csv, values) as run, tracked(run.folder) as tracker:
        with run.taken_back_when_refused():
            found = probe(run, tracker)
            load(run, tracker)
            plan(run, found, tracker)
            retries = attempts(run.config.execution.max_shrinks)
            train.with_options(retries=retries)(run, found, tracker)
        tracker.has_changed = True
        embed(run, tracker)
        evaluate(run, tracker)
        baselines(run, tracker)
        verdict = validate(run, tracker)
        (register if verdict.accepted else withdraw)(run, tracker)
    if verdict.accepted:
        return Completed(message=f"run {run.name} accepted", data=verdict)
    reasons = " ".join(verdict.rejection)
    return Failed(name=REJECTED, message=f"run {run.name} {reasons}", data=verdict)


def _opened(
    kg: str | None,
    resume: str | None,
    run_id: str | None,
    csv: tuple[str, bool] | None,
    values: dict[str, Any],
) -> contextlib.AbstractContextManager[LedRun]:
    if resume is None:
        if kg is None:
            raise InputError(
                "Give kg, the path of a knowledge graph, or resume, the run to continue."
            )
        return start_run(kg, run_id, csv, values)
    if kg is not None:
        raise InputError("Give either kg or resume, not both. A resumed run keeps its graph.")
    return resume_run(resume, csv, values)


def _signature() -> inspect.Signature:
    """The signature: kg, resume, ... and every parameter of the configuration.

    All are optional. None keeps the default.
    """
    names = {name: _REFERENCE_KINDS.get(name, str) | None for name, _ in _REFERENCES}
    names |= {p.name: _annotation(p) for p in parameters()}
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Signature(
        [
            inspect.Parameter(name, keyword, annotation=kind, default=None)
            for name, kind in names.items()
        ]
    )


def _annotation(p: Parameter) -> Any:
    if p.range is None:
        return (list[p.type] if p.is_list else p.type) | None  # type: ignore[name-defined]
    low, high = "gt" if p.range.open_low else "ge", "lt" if p.range.open_high else "le"
    limits = Field(**{low: p.range.low, high: p.range.high})  # type: ignore[arg-type]
    return Annotated[p.type, limits] | None  # type: ignore[name-defined]


def _docstring() -> str:
    lines = [f"    {name}: {meaning}" for name, meaning in _REFERENCES]
    lines += [
        f"    {p.name}: {p.help} (default {p.default}{' ' + p.unit if p.unit else ''})"
        for p in parameters()
    ]
    return f"{train_embeddings.__doc__}\n\nArgs:\n" + "\n".join(lines)


def _with_parameters(function: Any) -> Any:
    """The function with the signature that Prefect shows, checks and documents."""

    def hgt_embeddings(**given: Any) -> State[Verdict]:
        references = {name: given.pop(name, None) for name, _ in _REFERENCES}
        return function(**references, **given)

    hgt_embeddings.__signature__ = _signature()  # type: ignore[attr-defined]
    hgt_embeddings.__doc__ = _docstring()
    hgt_embeddings.__annotations__ = {}
    return hgt_embeddings


hgt_embeddings = flow(name="hgt-embeddings")(_with_parameters(train_embeddings))
