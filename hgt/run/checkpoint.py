"""A checkpoint: one safetensors file with the weights, the optimizer, and the progress in its
header.

In: tensors and the progress, or a folder. Out: a file, or a `Checkpoint`. The file is written under
a temporary name, synced and renamed. So a file with the name of a checkpoint is whole. Its
SHA-256 covers its whole content: a damaged file is skipped, and the previous one is used. There
is no pickle.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from hgt.errors import CheckpointError, InputError
from hgt.input_file import check_file, parsed_json
from hgt.run.identity import differs

_TOLD = ("progress", "graph_hash", "config_fingerprint", "split_hash")  # what a file's header says
_KEPT = 2  # a newest one and one to fall back to, besides the best that each of them names
_OTHER_VERSION = (
    "The run's checkpoints are of another version of this program. Resume it with that, or start a"
    " new run."
)


@dataclass(frozen=True)
class Progress:
    """The progress of a training. Random numbers are functions of (seed, epoch, batch), so this is
    the random state as well.

    seed: the configuration's seed.
    epoch: number of completed epochs.
    batch: number of completed batches of the next epoch.
    sums: {loss: sum over these batches}.
    best_mrr: best validation MRR so far.
    best_epoch: its epoch.
    history: the `epoch` events so far, in order.
    """

    seed: int
    epoch: int = 0
    batch: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    best_mrr: float = -1.0
    best_epoch: int = 0
    history: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint.

    tensors: `model.<name>` and `optimizer.<number>.<name>`, on the CPU. Where the model is an
        average, also `training.<name>`.
    """

    tensors: dict[str, Tensor]
    progress: Progress
    graph_hash: str
    config_fingerprint: str
    split_hash: str = ""


def checkpoint_name(progress: Progress) -> str:
    return f"checkpoint-{progress.epoch:05d}-{progress.batch:05d}.safetensors"


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint, then remove old ones. The new one, the one before it, and the best epochs
    of both stay. Later checkpoints go, because they were skipped as damaged. So do temporary files
    of killed trainers.

    Raises OSError or SafetensorError, for example for a full disk. The older checkpoints are then
    untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / checkpoint_name(checkpoint.progress)
    temporary = path.with_suffix(".tmp")
    metadata = {
        "progress": json.dumps(dataclasses.asdict(checkpoint.progress)),
        "graph_hash": checkpoint.graph_hash,
        "config_fingerprint": checkpoint.config_fingerprint,
        "split_hash": checkpoint.split_hash,
    }
    metadata["sha256"] = _digest(checkpoint.tensors, metadata)
    try:
        safetensors.torch.save_file(checkpoint.tensors, temporary, metadata=metadata)
        _sync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(folder)
    kept = [p for p in _newest_first(folder) if p.name <= path.name][:_KEPT]
    kept += [folder / checkpoint_name(Progress(0, epoch=epoch)) for epoch in map(_best_epoch, kept)]
    for old in {*_newest_first(folder), *folder.glob("checkpoint-*.tmp")} - {*kept}:
        if not old.is_dir():  # nothing of ours
            old.unlink()
    return path


def load_newest(
    folder: Path, graph_hash: str, config_fingerprint: str, split_hash: str | None = None
) -> tuple[Checkpoint | None, list[str]]:
    """The newest readable checkpoint, or None, and one sentence about each unreadable checkpoint
    that was skipped.

    Raises CheckpointError when it belongs to another graph, configuration or split. split_hash
    None: any split.
    """
    skipped = []
    for path in _newest_first(folder):
        try:
            checkpoint = load_checkpoint(path)
        except CheckpointError as error:
            skipped.append(str(error))
            continue
        for key, own, wanted in (
            ("graph_hash", checkpoint.graph_hash, graph_hash),
            ("config_fingerprint", checkpoint.config_fingerprint, config_fingerprint),
            (
                "split_hash",
                checkpoint.split_hash,
                checkpoint.split_hash if split_hash is None else split_hash,
            ),
        ):
            if own != wanted:
                raise CheckpointError(differs(path, key, own, wanted))
        return checkpoint, skipped
    return None, skipped


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and check one file. Raises CheckpointError when it is damaged."""
    try:
        check_file(path, "It is not used.")
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            names = list(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
        progress = parsed_json(metadata["progress"], dict)
        if _digest(tensors, metadata) != metadata["sha256"]:
            raise CheckpointError(
                f"{path}: its content does not match its checksum. It is not used."
            )
        progress["history"] = tuple(progress["history"])
        if not all(type(e["epoch"]) is int for e in progress["history"]):
            raise ValueError("its history has an epoch without a number")
        made_of = (metadata[key] for key in ("graph_hash", "config_fingerprint", "split_hash"))
        return Checkpoint(tensors, Progress(**progress), *made_of)
    except CheckpointError:
        raise
    except InputError as error:
        raise CheckpointError(str(error)) from error
    except (OSError, safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path}: is damaged or only half written ({error}). It is not used."
        ) from error


def best_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint of the epoch with the best validation MRR. The newest readable checkpoint
    names it.

    Raises CheckpointError when the folder has no readable checkpoint, or when the best one is
    damaged. Another epoch would be worse, and nobody would notice.
    """
    for path in _newest_first(folder):
        try:
            newest = load_checkpoint(path)
        except CheckpointError:
            continue
        try:
            return load_checkpoint(
                folder / checkpoint_name(Progress(0, epoch=newest.progress.best_epoch))
            )
        except CheckpointError as error:
            raise CheckpointError(
                f"{error} It is the best epoch's: remove {folder} and resume, which trains the run"
                " anew."
            ) from error
    raise CheckpointError(f"{folder}: holds no readable checkpoint. Train first.")


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{i}.{k}": v.detach().cpu().contiguous()
        for i, entry in state.items()
        for k, v in entry.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".", 2)
            state.setdefault(int(number), {})[key] = tensor
    wanted: list[torch.Size] = [
        parameter.shape for group in optimizer.param_groups for parameter in group["params"]
    ]
    for i, entry in state.items():
        if i >= len(wanted) or entry["exp_avg"].shape != wanted[i]:
            raise CheckpointError(_OTHER_VERSION)
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def load_model(model: torch.nn.Module, part: str, tensors: Mapping[str, Tensor]) -> None:
    """Load a part of a checkpoint's tensors into a model. Raises CheckpointError when they do not
    fit it.
    """
    try:
        model.load_state_dict(state_of(part, tensors))
    except RuntimeError as error:
        raise CheckpointError(_OTHER_VERSION) from error


def state_tensors(part: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A model's `state_dict` as the named part of a checkpoint."""
    return {f"{part}.{name}": tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def state_of(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The named part of a checkpoint's tensors, with the names of `state_dict`."""
    return {
        name.removeprefix(f"{part}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{part}.")
    }


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*.safetensors"), reverse=True)


def _best_epoch(path: Path) -> int:
    """The best epoch in the file's header; -1 for a damaged file."""
    if not path.is_file():
        return -1
    try:
        with safetensors.safe_open(path, "pt") as file:
            return int(parsed_json(file.metadata()["progress"], dict)["best_epoch"])
    except (OSError, safetensors.SafetensorError, KeyError, ValueError, TypeError):
        return -1


def _digest(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    digest = hashlib.sha256("\n".join(metadata[key] for key in _TOLD).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
