"""One optimizer step: a trainee (model, optimizer, message graph, batches), what a batch brings to it, and the step itself.

Device-neutral: fixed shapes from step to step, no host synchronisation inside. That is also why CUDA can record a step once and replay it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from hgt.config import RunConfig, TrainConfig
from hgt.device.traits import traits_of
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.split import EdgeSplit
from hgt.messages.message_graph import MessageGraph, training_message_graph
from hgt.messages.neighbor_sampling import NeighborSampling
from hgt.model.length_bound import gradient_before_, longest_length, shorten_
from hgt.model.model import HGTEncoder, HGTModel
from hgt.model.shallow import NodeTable, ShallowModel
from hgt.seeds import Stream, torch_seed
from hgt.training.average import WeightAverage
from hgt.training.batches import Batch, Batches, Layout, MicroBatch
from hgt.training.losses import Losses, isotropy_loss, micro_batch_loss
from hgt.training.step_form import StepForm

_LEAST_RATE = 0.02  # of the learning rate, once it has fallen


@dataclass(frozen=True)
class Trainee:
    """Everything that a step works on.

    messages: on the CPU where each batch draws its own (`num_neighbors`), else on the device; average: None where `average_decay` is 0
    """

    config: RunConfig
    device: torch.device
    model: HGTModel | ShallowModel
    optimizer: torch.optim.AdamW
    messages: MessageGraph
    batches: Batches
    average: WeightAverage | None = field(init=False)

    def __post_init__(self) -> None:
        decay = self.config.train.average_decay
        object.__setattr__(self, "average", WeightAverage(self.model, decay, self.batches.num_batches) if decay else None)

    def averaged(self) -> AbstractContextManager[None]:
        """Within it the model is the one to evaluate and to keep."""
        return nullcontext() if self.average is None else self.average.in_model()


@dataclass(frozen=True)
class StepInputs:
    """What a batch brings to the device. Same shapes from batch to batch. removed: [num_edges] bool, of `messages`; seeds: of dropout"""

    micro_batches: tuple[MicroBatch, ...]
    messages: MessageGraph
    removed: Tensor
    seeds: Tensor


def step_inputs(trainee: Trainee, batch: Batch) -> StepInputs:
    """All of a batch, on the device before the step's first operation: a copy amid the step would wait for everything before it (MPS)."""
    messages = trainee.messages if batch.messages is None else replace(batch.messages, fact=None).to(trainee.device)
    micro_batches = tuple(micro.to(trainee.device, non_blocking=trainee.batches.pins) for micro in batch.micro_batches)
    seeds = trainee.model.encoder.draw_seeds()
    if trainee.batches.pins:
        seeds = seeds.pin_memory()  # or the copy would wait for the step before
    seeds = seeds.to(trainee.device, non_blocking=trainee.batches.pins)
    return StepInputs(micro_batches, messages, removed_edges(trainee, batch), seeds)


def train_step(trainee: Trainee, batch: Batch) -> dict[str, Tensor]:
    """One optimizer step: one encoder pass, the micro-batches' gradients added up on the embeddings, one way back.

    Returns the batch's losses ("total", "link", "contrastive", "isotropy") and gradient norm ("grad_norm") as scalars on the device.
    """
    return step_on_device(trainee, step_inputs(trainee, batch))


def step_on_device(trainee: Trainee, inputs: StepInputs) -> dict[str, Tensor]:
    """`train_step` without what comes from the host: fixed shapes, no host synchronisation."""
    model = trainee.model
    trainee.optimizer.zero_grad()  # first: what the step before left would lie beside the forward pass
    hidden = model.encoder.hidden(inputs.messages, inputs.removed, spend_gradient=True, seeds=inputs.seeds)
    way_back = torch.autograd.graph.get_gradient_edge(hidden)  # the backward pass needs the way only, not these node-sized values
    grad, losses = _gradient_of_losses(trainee, inputs, hidden.detach())
    del hidden
    torch.autograd.backward((way_back,), (grad,))
    losses["grad_norm"] = nn.utils.clip_grad_norm_(model.parameters(), trainee.config.train.max_grad_norm)
    update(model, trainee.optimizer, trainee.config.train)
    return losses


def _gradient_of_losses(trainee: Trainee, inputs: StepInputs, hidden: Tensor) -> tuple[Tensor, Losses]:
    """The gradient of the batch's loss by the last layer's output [num_nodes, hidden], worked out part by part; and the losses.

    Gradients of the projection and the decoder are left in their parameters.
    """
    model, layout, train = trainee.model, trainee.batches.layout, trainee.config.train
    # Whichever is less work: project all nodes once, or the rows of the batch.
    projected = None
    if layout.rows_of_batch(len(inputs.micro_batches)) >= len(hidden):
        projected = model.encoder.project(hidden.requires_grad_())
    states = hidden if projected is None else projected.detach()
    grad = torch.zeros_like(states, requires_grad=False)
    sums = {name: torch.zeros((), device=trainee.device) for name in ("total", "link", "contrastive", "isotropy")}

    def rows_of(nodes: Tensor) -> _Rows:
        return _Rows(model.encoder, states.index_select(0, nodes), is_projected=projected is not None)

    def add(losses: Losses) -> None:
        losses["total"].backward()
        for name, loss in losses.items():
            sums[name] += loss.detach()

    shared_nodes = inputs.micro_batches[0].nodes.split(layout.shared_and_own)[0].long()
    shared = rows_of(shared_nodes)  # its embeddings gather the gradients of all parts
    longest = shared.shorten_()
    if train.isotropy_weight:
        add(isotropy_loss(_first_rows(shared.embeddings, layout), layout, train))
    for micro in inputs.micro_batches:
        nodes = micro.nodes.split(layout.shared_and_own)[1].long()
        own = rows_of(nodes)
        own.shorten_(longest)
        add(micro_batch_loss(shared.embeddings, own.embeddings, micro, layout, model.decoder, train))
        grad.index_add_(0, nodes, own.gradient())
        del own
    grad.index_add_(0, shared_nodes, shared.gradient())
    if projected is None:
        return grad, sums
    projected.backward(grad)
    return _gradient(hidden), sums


class _Rows:
    """Embeddings of some nodes in a step, as a leaf of their own, and the way back from their gradient to that of the nodes' states.

    states: [rows, hidden], or [rows, dim] where they are projected already. Used up.
    """

    def __init__(self, encoder: HGTEncoder | NodeTable, states: Tensor, is_projected: bool):
        self.encoder, self.states = encoder, states
        self.projected = states if is_projected else encoder.project(states.requires_grad_())
        self.embeddings = self.projected.detach().requires_grad_()
        self.factors: Tensor | None = None

    @torch.no_grad()
    def shorten_(self, longest: Tensor | None = None) -> Tensor | None:
        """longest: the length of other rows to go by; of these when not given. Returns the one gone by."""
        if not self.encoder.bounds_lengths:
            return None
        longest = longest_length(self.embeddings) if longest is None else longest
        self.factors = shorten_(self.embeddings, longest)
        return longest

    def gradient(self) -> Tensor:
        """By the states."""
        grad = _gradient(self.embeddings)
        if self.factors is not None:
            grad = gradient_before_(grad, self.embeddings.detach(), self.factors)
        if self.projected is self.states:
            return grad
        self.projected.backward(grad)
        return _gradient(self.states)


def _first_rows(pools: Tensor, layout: Layout) -> Tensor:
    """Of the nodes in `Layout.directions`. By one split: each slice's gradient would be a full-size tensor of zeros."""
    first = {pool: n for pool, n, _ in layout.directions}
    lengths = [n for pool, size in enumerate(layout.sections[: layout.head]) for n in (first.get(pool, 0), size - first.get(pool, 0))]
    return torch.cat(pools.split(lengths)[::2])


def _gradient(of: Tensor) -> Tensor:
    assert of.grad is not None, "the losses depend on it"
    return of.grad


def removed_edges(trainee: Trainee, batch: Batch) -> Tensor:
    """[num_edges] bool: the batch's message edges that tell one of its silent facts, in either direction. On the device."""
    removed = torch.zeros(trainee.batches.num_train + 1, dtype=torch.bool, pin_memory=trainee.batches.pins)
    removed[batch.silent] = True
    fact = (batch.messages or trainee.messages).fact
    assert fact is not None, "the training message graph knows its facts"
    removed = removed.to(fact.device, non_blocking=trainee.batches.pins)  # drawn edges' facts never leave the CPU
    return removed.index_select(0, fact).to(trainee.device)


def build_trainee(
    config: RunConfig, graph: KnowledgeGraph, split: EdgeSplit, device: torch.device, form: StepForm | None = None
) -> Trainee:
    """Model and optimizer at their seeded beginning. Weights are drawn on the CPU, so that every device begins alike.

    form: how steps are worked off; the largest that the configuration allows when not given.
    """
    form = form or StepForm.of(config)
    torch.manual_seed(torch_seed(config.split.seed, Stream.WEIGHTS))
    model = HGTModel(graph, config.model).to(device)
    model.encoder.keep_for_backward(layers=not form.recompute_layers, projections=form.keeps_projections)
    optimizer = adam(model, config.train, device)
    messages, neighbors = training_message_graph(graph, split, form.limits), None
    if config.train.num_neighbors is None:
        messages = messages.to(device)
    else:
        neighbors = NeighborSampling(messages, config.train.num_neighbors, form.limits).to(device)
    pins = traits_of(device.type).pins_memory
    batches = Batches(graph, split, config, form.accumulation_steps, neighbors, pins)
    return Trainee(config, device, model, optimizer, messages, batches)


def learning_rate(config: TrainConfig, epoch: int, num_batches: int) -> float:
    """Of an epoch, counted from 0, of so many batches: falling along half a cosine (Loshchilov & Hutter 2017, without restarts).

    A function of these alone: a run that is resumed, also with more epochs or on another device, goes on as it would have.
    """
    num_steps = max(config.rate_decay_epochs * num_batches, config.min_rate_decay_steps)
    passed = min(1.0, epoch * num_batches / num_steps) if config.rate_decay_epochs else 0.0
    return config.learning_rate * (_LEAST_RATE + (1 - _LEAST_RATE) * (1 + math.cos(math.pi * passed)) / 2)


def adam(model: nn.Module, config: TrainConfig, device: torch.device) -> torch.optim.AdamW:
    """AdamW, as its fused kernel is the one that is known to run on MPS; without decay of its own (see `update`)."""
    rate, recordable = config.learning_rate, traits_of(device.type).records_steps
    return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0, fused=True, capturable=recordable)


@torch.no_grad()
def update(model: HGTModel | ShallowModel, optimizer: torch.optim.AdamW, config: TrainConfig) -> None:
    """Adam's step, and decoupled weight decay (Loshchilov & Hutter 2019) of what attention scores are made of.

    Not by AdamW itself: it decays parameters whole, and a layer's values lie in one tensor with its keys and queries.
    """
    if config.weight_decay:
        kept = 1 - config.weight_decay * optimizer.param_groups[0]["lr"]
        for matrices in model.encoder.attention_maps():
            matrices.mul_(kept)
    optimizer.step()


class Steps:
    """Makes one step of an epoch after another: `steps(batch)` is `train_step(trainee, batch)` at the epoch's learning rate, and the
    weights' average follows.

    On CUDA the second step is recorded as a graph and replayed from then on: the same kernels in the same order, started by the device
    instead of by Python (66,903 nodes, 200,000 facts on an H100: 0.021 s a step instead of 0.054). A recording takes some 100 MB of its
    own (inputs, cuBLAS's work space); where they are not to be had, steps go on as they are. Holds the step's memory while it lives.
    """

    def __init__(self, trainee: Trainee, epoch: int = 0):
        for group in trainee.optimizer.param_groups:
            group["lr"] = learning_rate(
                trainee.config.train, epoch, trainee.batches.num_batches
            )  # before anything is recorded: a recording keeps it
        self.trainee = trainee
        self.num_made = 0
        self.recordable = traits_of(trainee.device.type).records_steps
        self.recorded: _RecordedStep | None = None

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        losses = self._step(step_inputs(self.trainee, batch))
        if self.trainee.average is not None:
            self.trainee.average.after_step(batch.number + 1)
        return losses

    def _step(self, inputs: StepInputs) -> dict[str, Tensor]:
        self.num_made += 1
        if self.recordable and self.num_made == 2:  # the first step compiles kernels, which cannot be recorded
            try:
                self.recorded = _RecordedStep(self.trainee, inputs)
            except torch.OutOfMemoryError:
                self.recordable = False
                torch.cuda.empty_cache()  # what the attempt took for itself
        if self.recorded is None:
            return step_on_device(self.trainee, inputs)
        return self.recorded(inputs)


class _RecordedStep:
    """A CUDA graph of `step_on_device`."""

    def __init__(self, trainee: Trainee, inputs: StepInputs):
        trainee.optimizer.zero_grad()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # a recording takes memory of its own; what earlier steps freed would lie unused beside it
        self.inputs = inputs
        self.graph = torch.cuda.CUDAGraph()
        # thread_local: with "global" the recording would fail over the pinned memory of the next batch, which a thread draws meanwhile
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.losses = step_on_device(trainee, inputs)

    def __call__(self, inputs: StepInputs) -> dict[str, Tensor]:
        for recorded, new in zip(_tensors(self.inputs), _tensors(inputs), strict=True):
            if new is not recorded:
                recorded.copy_(new)
        self.graph.replay()
        return {name: loss.clone() for name, loss in self.losses.items()}


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        for element in value:
            yield from _tensors(element)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name))
