"""A trainee: everything that a training step works on.

In: a graph, its split, the configuration and a device. Out: model, optimizer and batches at their
seeded beginning. It knows no step.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch

from hgt.config import RunConfig
from hgt.device.traits import traits_of
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.split import EdgeSplit
from hgt.messages.message_graph import MessageGraph
from hgt.messages.step_messages import step_messages
from hgt.model.hgt_model import HGTModel
from hgt.model.shallow import ShallowModel
from hgt.seeds import Stream, torch_seed
from hgt.training.average import WeightAverage
from hgt.training.batches import Batches
from hgt.training.optimizer import adam
from hgt.training.step_form import StepForm


@dataclass(frozen=True)
class Trainee:
    """Everything that a step works on.

    n3: weight of the facts' nuclear 3-norm in the loss; 0 turns it off.
    average: of the weights; None where `average_decay` is 0.
    """

    config: RunConfig
    device: torch.device
    model: HGTModel | ShallowModel
    optimizer: torch.optim.AdamW
    batches: Batches
    n3: float = 0.0
    average: WeightAverage | None = field(init=False)

    def __post_init__(self) -> None:
        decay, average = self.config.optimizer.average_decay, None
        if decay:
            average = WeightAverage(self.model, decay, self.batches.num_batches)
        object.__setattr__(self, "average", average)

    @property
    def messages(self) -> MessageGraph:
        """All training message edges. On the CPU where each step draws its own."""
        return self.batches.step_messages.all_edges

    def averaged(self) -> AbstractContextManager[None]:
        """Within it the model is the one to evaluate and to keep."""
        return nullcontext() if self.average is None else self.average.in_model()


def build_trainee(
    config: RunConfig,
    graph: KnowledgeGraph,
    split: EdgeSplit,
    device: torch.device,
    form: StepForm | None = None,
) -> Trainee:
    """The trainee of a run. Weights are drawn on the CPU, so that every device begins alike.

    form: how much of a step is computed at a time; the largest that the configuration allows when
        not given.
    """
    form = form or StepForm.of(config)
    torch.manual_seed(torch_seed(config.split.seed, Stream.WEIGHTS))
    model = HGTModel(graph, config.model).to(device)
    model.encoder.keep_for_backward(
        layers=not form.recompute_layers, projections=form.keeps_projections
    )
    optimizer = adam(model, config.optimizer, device)
    messages = step_messages(graph, split, config.batches.num_neighbors, form.limits, device)
    # Never for MPS: asynchronous copies to it may arrive damaged (pytorch 189690).
    pins = traits_of(device.type).pins_memory
    batches = Batches(graph, split, config, form.accumulation_steps, messages, pins)
    return Trainee(config, device, model, optimizer, batches)
