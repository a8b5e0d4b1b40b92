"""The training of a run folder.

In: the run's configuration, graph and split, and its newest valid checkpoint. Out: checkpoints, and
the events of `events.jsonl`. Knows no Prefect and no MLflow.
"""

from __future__ import annotations

import time
from dataclasses import replace

import safetensors
import torch

from hgt.errors import DiskFull, HgtError, TrainingDiverged, is_disk_full
from hgt.evaluation.fact_index import FactIndex
from hgt.evaluation.ranking import sample_facts
from hgt.graph.split import VAL
from hgt.programs.weights import load_weights, weight_tensors
from hgt.run.checkpoint import (
    Checkpoint,
    Progress,
    load_newest,
    load_optimizer,
    optimizer_tensors,
    save_checkpoint,
)
from hgt.run.events import epochs_by_number
from hgt.run.folder import RunFolder
from hgt.run.opened import open_run
from hgt.run.parent import stop_without_parent
from hgt.run.program import OnEvent
from hgt.seeds import Stream, torch_seed
from hgt.training.batches_ahead import batches_ahead
from hgt.training.steps import Steps
from hgt.training.trainee import build_trainee
from hgt.training.val_metrics import evaluate_val


class Training:
    """One training of a run folder: steps, checkpoints and events. `run()` does all of it."""

    def __init__(self, folder: RunFolder, on_event: OnEvent):
        run = open_run(folder)
        self.folder, self.on_event, self.identity = folder, on_event, run.identity
        self.config, self.memory, self.device = run.config, run.memory, run.device
        with self.memory.phase("step"):
            self.trainee = build_trainee(run.config, run.graph, run.split, run.device, run.form)
        self.val_facts = sample_facts(
            run.split.of(VAL), self.config.stopping.num_val_edges, self.config.split.seed
        )
        self.index = FactIndex(run.graph)
        self.progress = Progress(seed=self.config.split.seed)
        self.saved_at = time.monotonic()

    def run(self) -> None:
        """Train to the last epoch. Stop early after `patience` epochs without a better validation
        MRR.
        """
        self._resume()
        self.on_event(
            "start",
            device=self.device.type,
            epoch=self.progress.epoch,
            batch=self.progress.batch,
            num_epochs=self.config.stopping.num_epochs,
            num_batches=self.trainee.batches.num_batches,
            contrastive=self.trainee.batches.contrast is not None,
            contrastive_weight=self.config.losses.contrastive_weight,
        )
        if self.progress.epoch == 0 and self.progress.batch == 0:
            self._save()  # so that there is a valid checkpoint from the first moment on
        while self.progress.epoch < self.config.stopping.num_epochs and not self._stopped_early():
            self._train_epoch()
        self.on_event(
            "end",
            epoch=self.progress.epoch,
            best_epoch=self.progress.best_epoch,
            best_mrr=self.progress.best_mrr,
            stopped_early=self._stopped_early(),
            **self.memory.as_dict(),
        )

    def _resume(self) -> None:
        made_of = self.identity
        checkpoint, skipped = load_newest(
            self.folder.checkpoints,
            made_of.graph_hash,
            made_of.config_fingerprint,
            made_of.split_hash,
        )
        for sentence in skipped:
            self.on_event("checkpoint_skipped", message=sentence)
        if checkpoint is None:
            if skipped:
                self.on_event("resume", epoch=0, batch=0)
            return
        load_weights(self.trainee, checkpoint.tensors)
        load_optimizer(self.trainee.optimizer, checkpoint.tensors)
        self.progress = checkpoint.progress
        told = epochs_by_number(self.folder.events)
        # a kill between checkpoint and event leaves an epoch untold
        for epoch in self.progress.history:
            if epoch["epoch"] not in told:
                self.on_event("epoch", **epoch)
        self.on_event("resume", epoch=self.progress.epoch, batch=self.progress.batch)

    def _stopped_early(self) -> bool:
        return self.progress.epoch - self.progress.best_epoch >= self.config.stopping.patience

    def _train_epoch(self) -> None:
        started = time.monotonic()
        num_batches = self.trainee.batches.num_batches
        first_batch = self.progress.batch
        sums = {
            name: torch.tensor(value, device=self.trainee.device)
            for name, value in self.progress.sums.items()
        }
        step = Steps(self.trainee, self.progress.epoch)
        for number, batch in batches_ahead(
            self.trainee.batches, self.progress.epoch, range(first_batch, num_batches)
        ):
            stop_without_parent()
            self.trainee.model.train()
            seed, epoch = self.progress.seed, self.progress.epoch
            torch.manual_seed(torch_seed(seed, Stream.DROPOUT, epoch, number))
            with self.memory.phase("step"):
                losses = step(batch)
            for name, value in losses.items():
                sums[name] = sums[name] + value if name in sums else value
            self.progress = replace(self.progress, batch=number + 1)
            if number + 1 < num_batches:
                self.on_event(
                    "step", epoch=self.progress.epoch + 1, batch=number + 1, num_batches=num_batches
                )
                if time.monotonic() - self.saved_at > 60 * self.config.stopping.checkpoint_minutes:
                    self.progress = replace(
                        self.progress, sums={n: v.item() for n, v in sums.items()}
                    )
                    self._save()
        del step  # and with it the step's memory
        self._finish_epoch(
            {n: v.item() / num_batches for n, v in sums.items()},
            time.monotonic() - started,
            num_batches - first_batch,
        )

    def _finish_epoch(self, means: dict[str, float], train_seconds: float, num_steps: int) -> None:
        epoch = self.progress.epoch + 1
        if not all(map(_is_finite, means.values())):
            raise TrainingDiverged(
                f"In epoch {epoch} the losses became {means}, which is not finite. Lower"
                f" learning_rate (now {self.config.optimizer.learning_rate}) in a new run: this one"
                " would diverge again."
            )
        started = time.monotonic()
        with self.memory.phase("evaluation"):
            val = (
                evaluate_val(self.trainee, self.val_facts, self.index)
                if self.val_facts.shape[1]
                else None
            )
        # a graph too small to hold anything out is steered by its loss
        mrr = val.mrr if val else -means["total"]
        if epoch == 1 or mrr > self.progress.best_mrr:
            self.progress = replace(self.progress, best_mrr=mrr, best_epoch=epoch)
        record = {
            "epoch": epoch,
            "loss": means["total"],
            "link_loss": means["link"],
            "contrastive_loss": means["contrastive"],
            "isotropy_loss": means["isotropy"],
            "grad_norm": means["grad_norm"],
            "learning_rate": self.trainee.optimizer.param_groups[0]["lr"],
            "val_mrr": val.mrr if val else None,
            "val_hits_at_10": val.hits[10] if val else None,
            "step_seconds": train_seconds / max(num_steps, 1),
            "val_seconds": time.monotonic() - started,
            **self.memory.as_dict(),
            "device": self.device.type,
        }
        self.progress = replace(
            self.progress, epoch=epoch, batch=0, sums={}, history=(*self.progress.history, record)
        )
        self._save()
        self.on_event("epoch", **record)
        self.memory.clear_cache()

    def _save(self) -> None:
        tensors = weight_tensors(self.trainee) | optimizer_tensors(self.trainee.optimizer)
        checkpoint = Checkpoint(tensors, self.progress, **self.identity.as_dict())
        try:
            path = save_checkpoint(self.folder.checkpoints, checkpoint)
        except (OSError, safetensors.SafetensorError) as error:
            full, has_one = is_disk_full(error), self.progress.epoch or self.progress.batch
            raise (DiskFull if full else HgtError)(
                f"{self.folder.checkpoints}: a checkpoint could not be written ({error})."
                f" {'Make room' if full else 'Remove the cause'}, then"
                f" resume{': the previous checkpoint is whole' if has_one else ''}."
            ) from error
        self.saved_at = time.monotonic()
        self.on_event(
            "checkpoint", file=path.name, epoch=self.progress.epoch, batch=self.progress.batch
        )


def _is_finite(value: float) -> bool:
    return abs(value) < float("inf")


def train_run(folder: RunFolder, on_event: OnEvent) -> None:
    """Train a run folder. Start from its newest valid checkpoint if there is one."""
    Training(folder, on_event).run()
