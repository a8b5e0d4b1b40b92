"""Task `validate`: the verdict on the run's embeddings.

In: the run's report. Out: a `Verdict`, shown on the screen, in Prefect and in MLflow.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from hgt.run.events import epochs_by_number
from hgt.run.report import read_report
from tasks.led_run import LedRun
from tasks.rejection import rejection, with_rejection
from tasks.reporting import NO_ANSWER, say
from tasks.tracking.tracker import Tracker

_FENCE = "~" * 12  # a name may contain ```, hardly this
# hgt/evaluation/geometry_checks.py names a check "mean cosine among <node type> nodes"
_AMONG, _NODES = "mean cosine among ", " nodes"


@dataclass(frozen=True)
class Verdict:
    """The verdict on a run.

    run: the run's id
    accepted: whether every required check passed
    failed: names of the required checks that failed
    rejection: why the run is rejected and what to do, one sentence each
    """

    run: str
    accepted: bool
    failed: tuple[str, ...]
    rejection: tuple[str, ...] = ()


@task(name="validate", cache_policy=NO_CACHE)
def validate(run: LedRun, tracker: Tracker) -> Verdict:
    """Show the report, log its figures and return the verdict."""
    folder = run.folder
    report = read_report(folder.report / "validation.json")
    num_epochs = max(epochs_by_number(folder.events), default=0)
    sentences = rejection(report["checks"], num_epochs)
    table = with_rejection((folder.report / "validation.txt").read_text(), sentences)
    if (folder.report / "baselines.txt").is_file():
        table = (folder.report / "baselines.txt").read_text() + "\n" + table
    say(table)
    with contextlib.suppress(*NO_ANSWER):
        create_markdown_artifact(
            f"{_FENCE}\n{table}\n{_FENCE}",
            key="validation-report",
            description=f"Validation of run {run.name}",
        )
    tracker.metrics(_figures(report))
    failed = tuple(c["name"] for c in report["checks"] if c["required"] and not c["passed"])
    tracker.tags({"accepted": str(report["accepted"]).lower(), "failed_checks": "; ".join(failed)})
    return Verdict(run.name, report["accepted"], failed, tuple(sentences))


def _check_name(name: str) -> str:
    """The name of a check, with underscores for blanks. A node type in it keeps its blanks."""
    if name.startswith(_AMONG) and name.endswith(_NODES):
        return f"{_joined(_AMONG)}{name[len(_AMONG) : -len(_NODES)]}{_joined(_NODES)}"
    return _joined(name)


def _joined(words: str) -> str:
    return words.replace(" ", "_").replace("%", "percent")


def _figures(report: dict[str, Any]) -> dict[str, float]:
    """MLflow's metrics: the value of each check, and the ranking figures of the test facts.

    Figures of single edge types are only in the report.
    """
    checks = report["checks"]
    figures = {
        f"validation/{_check_name(c['name'])}": c["value"] for c in checks if c["value"] is not None
    }
    if ranking := report["ranking"]:
        for scope in ("typed", "all_nodes"):
            for prefix, m in (("", ranking[scope]), ("macro_", ranking[f"{scope}_macro"])):
                figures |= {f"test/{scope}/{prefix}mrr": m["mrr"]}
                figures |= {f"test/{scope}/{prefix}hits_at_{k}": v for k, v in m["hits"].items()}
    if pairs := report["classification"]:
        figures |= {
            f"test/pairs/{mean}_{name}": pairs[mean][name]
            for mean in ("micro", "macro")
            for name in ("auroc", "auprc")
        }
    return figures
