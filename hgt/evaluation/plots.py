"""The two plots of a run: losses over epochs, and the embeddings in the plane of two PCA
components.

In: `epoch` events, or a `Geometry`. Out: PNG files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hgt.evaluation.geometry import Geometry
from hgt.whole_file import written_whole

LOSSES = ("loss", "link_loss", "contrastive_loss", "isotropy_loss")


def plot_losses(epochs: list[dict[str, Any]], path: Path) -> None:
    """Plot the losses and the validation MRR over the epochs.

    epochs: the run's `epoch` events in order.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    left = figure.subplots()
    number = [e["epoch"] for e in epochs]
    for key in LOSSES:
        left.plot(number, [e[key] for e in epochs], label=key.replace("_", " "))
    left.set_xlabel("epoch")
    left.set_ylabel("loss")
    right = left.twinx()
    right.plot(
        number,
        [e["val_mrr"] if e["val_mrr"] is not None else np.nan for e in epochs],
        "k--",
        label="validation MRR (typed)",
    )
    right.set_ylabel("validation MRR")
    lines = [*left.get_lines(), *right.get_lines()]
    left.legend(lines, [str(line.get_label()) for line in lines])
    with written_whole(path) as new:
        figure.savefig(new, dpi=120, format="png")


def plot_plane(geometry: Geometry, path: Path) -> None:
    """Plot the sampled nodes in the plane of the first two components, coloured by node type."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    node_types = np.unique(geometry.plane_types)
    for i, node_type in enumerate(node_types):
        points = geometry.plane[geometry.plane_types == node_type]
        axes.scatter(
            points[:, 0],
            points[:, 1],
            s=5,
            color=f"C{i % 10}",
            marker="ox^sv"[i // 10 % 5],
            label=str(i),
            alpha=0.6,
        )
    share = np.concatenate([geometry.explained_variance, [0, 0]])
    axes.set_xlabel(f"component 1 ({share[0]:.1%} of the variance)")
    axes.set_ylabel(f"component 2 ({share[1]:.1%} of the variance)")
    legend = axes.legend(
        markerscale=3, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5)
    )
    # as labels, "_a" would be left out and "$a$" be a formula
    for text, node_type in zip(legend.get_texts(), node_types, strict=True):
        text.set_parse_math(False)
        text.set_text(str(node_type))
    with written_whole(path) as new:
        figure.savefig(new, dpi=120, format="png")
