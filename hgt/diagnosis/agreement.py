"""Do two trainings of one graph on two devices reach the same embeddings? (`hgt compare`)

In: two run folders that were trained and evaluated. Out: an `Agreement`. The band of 0.05 is the
difference that another seed can make.
"""

from __future__ import annotations

from dataclasses import dataclass

from hgt.errors import InputError
from hgt.run.events import EventReader, epochs_by_number
from hgt.run.folder import RunFolder
from hgt.run.report import read_report

BAND = 0.05
_LOSSES = {
    "loss": "loss",
    **{f"{part}_loss": f"{part} loss" for part in ("link", "contrastive", "isotropy")},
    "val_mrr": "validation MRR",
}


_NOTHING = "has no training. Compare runs that were trained to their end."


@dataclass(frozen=True)
class Cost:
    """The cost of a training.

    seconds: mean time of an epoch with its validation.
    peak_bytes: peak memory of the device or the process.
    num_epochs: number of epochs.
    """

    seconds: float
    peak_bytes: int
    num_epochs: int


@dataclass(frozen=True)
class FigureOfTwo:
    """One figure of both runs; None where it could not be measured."""

    name: str
    first: float | int | None
    second: float | int | None

    @property
    def difference(self) -> float | None:
        """Absolute for values between -1 and 1 (shares, cosines, MRR), otherwise relative to the
        larger value. None if one is missing.
        """
        if self.first is None or self.second is None:
            return None
        return abs(self.first - self.second) / max(1.0, abs(self.first), abs(self.second))

    @property
    def is_within(self) -> bool:
        """Whether the difference is within the band. A count may always differ by one."""
        if self.difference is None:
            return self.first is None and self.second is None
        counts = isinstance(self.first, int) and isinstance(self.second, int)
        return self.difference <= BAND or (counts and abs(self.first - self.second) <= 1)  # type: ignore[operator]


@dataclass(frozen=True)
class Agreement:
    """The figures of two trainings.

    devices: names of the two devices, as the user gave them.
    """

    devices: tuple[str, str]
    costs: tuple[Cost, Cost]
    figures: tuple[FigureOfTwo, ...]

    @property
    def outside(self) -> tuple[str, ...]:
        """Names of the figures that differ by more than the band."""
        return tuple(f.name for f in self.figures if not f.is_within)

    def table(self) -> str:
        """The table for people."""
        a, b = self.costs
        titles = [f"{d[:10]:>12}" for d in self.devices]
        lines = [f"{'two trainings with one seed':<50}" + "".join(titles) + f"{'ratio':>12}"]
        costs = (
            ("seconds per epoch", a.seconds, b.seconds),
            ("peak memory, GB", a.peak_bytes / 1e9, b.peak_bytes / 1e9),
        )
        lines += [f"{name:<50}{x:>12.2f}{y:>12.2f}{y / x:>10.2f} x" for name, x, y in costs]
        lines += [f"{'epochs':<50}{a.num_epochs:>12}{b.num_epochs:>12}", ""]
        lines.append(f"{'figure':<50}" + "".join(titles) + f"{'difference':>12}  within {BAND}")
        for f in self.figures:
            difference = "-" if f.difference is None else f"{f.difference:.4f}"
            lines.append(
                f"{f.name[:50]:<50}{_shown(f.first)}{_shown(f.second)}{difference:>12} "
                f" {'yes' if f.is_within else 'NO'}"
            )
        lines += [
            "",
            (
                f"DIFFERENT: {'; '.join(self.outside)}"
                if self.outside
                else f"SAME: every figure within {BAND}"
            ),
        ]
        return "\n".join(lines)


def compare_runs(first: RunFolder, second: RunFolder, devices: tuple[str, str]) -> Agreement:
    """Compare two runs. Raises InputError when one of them was not evaluated, or when their graphs
    or configurations differ.
    """
    configs = [folder.load_config() for folder in (first, second)]
    if (
        configs[0].fingerprint() != configs[1].fingerprint()
        or first.load_graph().hash != second.load_graph().hash
    ):
        raise InputError(
            f"{first.path} and {second.path}: have different graphs or parameters. Compare runs"
            " that differ by device alone."
        )
    a, b = (_figures(folder) for folder in (first, second))
    figures = tuple(FigureOfTwo(name, a.get(name), b.get(name)) for name in a | b)
    return Agreement(devices, (_cost(first), _cost(second)), figures)


def _cost(folder: RunFolder) -> Cost:
    epochs = list(
        epochs_by_number(folder.events, "step_seconds", "val_seconds", "peak_memory_bytes").values()
    )
    starts = [e["num_batches"] for e in EventReader(folder.events).new() if e["event"] == "start"]
    if not epochs or not starts:
        raise InputError(f"{folder.events}: {_NOTHING}")
    num_batches = starts[-1]
    seconds = sum(e["step_seconds"] * num_batches + e["val_seconds"] for e in epochs) / len(epochs)
    return Cost(seconds, max(e["peak_memory_bytes"] for e in epochs), len(epochs))


def _figures(folder: RunFolder) -> dict[str, float | int | None]:
    """Losses of the last epoch, every check, ranks over all edge types, AUROC and AUPRC, and
    cosines within types.
    """
    path = folder.report / "validation.json"
    report = read_report(path)
    if not epochs_by_number(folder.events):
        raise InputError(f"{folder.events}: {_NOTHING}")
    _, last = max(epochs_by_number(folder.events, *_LOSSES).items())
    figures = {f"{title}, last epoch": last[key] for key, title in _LOSSES.items()}
    figures |= {c["name"]: c["value"] for c in report["checks"]}
    for scope, title in (("typed", "typed"), ("all_nodes", "all nodes")):
        for suffix, mean in (("", ""), ("_macro", ", mean over edge types")):
            if ranking := report["ranking"]:
                m = ranking[scope + suffix]
                figures |= {f"MRR, {title}{mean}": m["mrr"]}
                figures |= {f"Hits@{k}, {title}{mean}": share for k, share in m["hits"].items()}
    if pairs := report["classification"]:
        for mean, title in (("micro", ""), ("macro", ", mean over edge types")):
            figures |= {f"{name.upper()}{title}": pairs[mean][name] for name in ("auroc", "auprc")}
    return figures | {
        f"mean cosine within {t}": cosine for t, cosine in report["mean_cosine_by_type"].items()
    }


def _shown(value: float | int | None) -> str:
    return (
        f"{'-':>12}"
        if value is None
        else f"{value:>12,}"
        if isinstance(value, int)
        else f"{value:>12.4f}"
    )
