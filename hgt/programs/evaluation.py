"""The evaluation of a run.

In: a run folder with embeddings. Out: `report/validation.json`, its table as text, and the plots.
"""

from __future__ import annotations

from hgt.embeddings.table import Embeddings
from hgt.errors import InputError
from hgt.evaluation.plots import LOSSES, plot_losses, plot_plane
from hgt.graph.leakage import audit_split
from hgt.programs.embedding_report import report_on
from hgt.run.events import epochs_by_number
from hgt.run.folder import RunFolder
from hgt.run.opened import open_run
from hgt.run.program import OnEvent
from hgt.run.report import write_report
from hgt.whole_file import make_folder


def evaluate_run(folder: RunFolder, on_event: OnEvent) -> None:
    """Write the report of a run whose embeddings exist.

    Raises InputError when the embeddings do not belong to the run's graph, split or configuration.
    """
    run = open_run(folder)
    audit = audit_split(run.graph, run.split, folder.split)
    on_event("audited", message=str(audit))
    path = folder.embeddings / "embeddings.parquet"
    embeddings = Embeddings.load(path)
    run.identity.check(embeddings.origin, path)
    if not embeddings.edge_types:
        raise InputError(
            f"{path}: has no relations.parquet beside it. Resume the run, which writes it anew."
        )
    if not (embeddings.nodes.to_numpy() == run.graph.node_table().astype(str).to_numpy()).all():
        raise InputError(
            f"{path}: its rows are not the nodes of the run's graph. Resume the run, which writes"
            " it anew."
        )
    with run.memory.phase("evaluation"):
        report = report_on(embeddings, run.graph, run.split, run.config, run.device)
    make_folder(folder.report)
    write_report(report, folder.report, run.identity)
    plot_losses(
        [e for _, e in sorted(epochs_by_number(folder.events, *LOSSES, "val_mrr").items())],
        folder.report / "losses.png",
    )
    plot_plane(report.geometry, folder.report / "pca.png")
    on_event("evaluated", accepted=report.accepted, **run.memory.as_dict())
