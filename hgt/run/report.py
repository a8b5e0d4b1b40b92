"""A run's report: `report/validation.json`, and its table as text.

In: a `ValidationReport`, or the file. Out: the file, or its content after a check.
"""

from __future__ import annotations

import json
from numbers import Real
from pathlib import Path
from typing import Any

from hgt.errors import InputError
from hgt.evaluation.validation import ValidationReport
from hgt.input_file import read_json
from hgt.run.identity import Identity
from hgt.whole_file import written_whole

_REMEDY = "Evaluate the run anew: `hgt train --resume` does."
_CHECK = ("key", "name", "value", "threshold", "passed", "required", "meaning")
_SCOPES = ("typed", "typed_macro", "all_nodes", "all_nodes_macro")


def write_report(report: ValidationReport, folder: Path, identity: Identity) -> None:
    """Write the report as JSON and as text."""
    told = report.as_dict() | identity.as_dict()
    for name, text in (
        ("validation.json", json.dumps(told, indent=2)),
        ("validation.txt", report.table()),
    ):
        with written_whole(folder / name) as new:
            new.write_text(text + "\n")


def read_report(path: Path) -> dict[str, Any]:
    """The content of a report. Raises InputError when the file is missing or is no report."""
    report: dict[str, Any] = read_json(path, dict, _REMEDY)
    try:
        _check_shape(report)
    except (LookupError, TypeError, ValueError) as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise InputError(f"{path}: is no report of a run ({why}). {_REMEDY}") from error
    return report


def _check_shape(report: dict[str, Any]) -> None:
    for check in report["checks"]:
        for key in _CHECK:
            _ = check[key]
        _require(
            isinstance(check["name"], str) and _is_number(check["value"], or_none=True), "checks"
        )
    if (ranking := report["ranking"]) is not None:
        for scope in _SCOPES:
            _check_metrics(ranking[scope])
        for metrics in ranking["by_edge_type"]:
            _check_metrics(metrics)
            _require(
                len(metrics["edge_type"]) == 3
                and all(isinstance(e, str) for e in metrics["edge_type"]),
                "edge_type",
            )
    if (pairs := report["classification"]) is not None:
        _require(
            all(
                _is_number(pairs[mean][name])
                for mean in ("micro", "macro")
                for name in ("auroc", "auprc")
            ),
            "classification",
        )


def _check_metrics(metrics: dict[str, Any]) -> None:
    _require(
        all(_is_number(metrics[name]) for name in ("mrr", "chance_mrr", "num_ranks")), "ranking"
    )
    _require(all(_is_number(metrics["hits"][k]) for k in ("1", "3", "10")), "hits")


def _is_number(value: Any, or_none: bool = False) -> bool:
    return (or_none and value is None) or (isinstance(value, Real) and not isinstance(value, bool))


def _require(good: bool, what: str) -> None:
    if not good:
        raise ValueError(f"its {what} are not the figures of a report")
