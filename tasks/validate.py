"""Task `validate`: the verdict on the run's embeddings."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from tasks.home import run_folder
from tasks.reporting import NO_ANSWER, say
from tasks.tracking import Tracker


@dataclass(frozen=True)
class Verdict:
    """run: its id; failed: names of the required checks that failed."""

    run: str
    accepted: bool
    failed: tuple[str, ...]


@task(name="validate", cache_policy=NO_CACHE)
def validate(run: str, tracker: Tracker) -> Verdict:
    """Show the report, log its figures, and say whether the embeddings can be trusted."""
    folder = run_folder(run)
    report = json.loads((folder.report / "validation.json").read_text())
    table = (folder.report / "validation.txt").read_text()
    say(table)
    with contextlib.suppress(*NO_ANSWER):
        create_markdown_artifact(f"```\n{table}\n```", key="validation-report", description=f"Validation of run {run}")
    figures = {
        f"validation/{c['name'].replace(' ', '_').replace('%', 'percent')}": c["value"] for c in report["checks"] if c["value"] is not None
    }
    for scope in ("typed", "all_nodes"):
        if report["ranking"]:
            m = report["ranking"][scope]
            figures |= {f"test/{scope}/mrr": m["mrr"]} | {f"test/{scope}/hits_at_{k}": v for k, v in m["hits"].items()}
    tracker.metrics(figures)
    failed = tuple(c["name"] for c in report["checks"] if c["required"] and not c["passed"])
    tracker.tags({"accepted": str(report["accepted"]).lower(), "failed_checks": "; ".join(failed)})
    return Verdict(run, report["accepted"], failed)
