"""The gradient of a batch's loss by the encoder's last layer, micro-batch by micro-batch.

In: the hidden states of all nodes, and a batch's parts. Out: their gradient, and the losses. It
knows no layer and no message: one forward and one backward pass of the layers serve all parts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hgt.model.encoder import HGTEncoder
from hgt.model.length_bound import gradient_before_, longest_length, shorten_
from hgt.model.shallow import NodeTable
from hgt.training.batch import MicroBatch
from hgt.training.layout import Layout
from hgt.training.losses import Losses, isotropy_loss, micro_batch_loss
from hgt.training.trainee import Trainee


def gradient_of_losses(
    trainee: Trainee, micro_batches: Sequence[MicroBatch], hidden: Tensor
) -> tuple[Tensor, Losses]:
    """The gradient of the batch's loss by `hidden`, added up part by part; and the batch's losses.

    Gradients of the projection and the decoder are left in their parameters.

    hidden: [num_nodes, hidden] the last layer's output, detached.
    """
    model, layout, config = trainee.model, trainee.batches.layout, trainee.config.losses
    # Whichever is less work: project all nodes once, or the rows of the batch.
    projected = None
    if layout.rows_of_batch(len(micro_batches)) >= len(hidden):
        projected = model.encoder.project(hidden.requires_grad_())
    states = hidden if projected is None else projected.detach()
    grad = torch.zeros_like(states, requires_grad=False)
    names = ("total", "link", "contrastive", "isotropy")
    sums = {name: torch.zeros((), device=trainee.device) for name in names}

    def rows_of(nodes: Tensor) -> _Rows:
        rows = states.index_select(0, nodes)
        return _Rows(model.encoder, rows, is_projected=projected is not None)

    def add(losses: Losses) -> None:
        losses["total"].backward()
        for name, loss in losses.items():
            sums[name] += loss.detach()

    shared_nodes = micro_batches[0].nodes.split(layout.shared_and_own)[0].long()
    shared = rows_of(shared_nodes)  # its embeddings gather the gradients of all parts
    longest = shared.shorten_()
    if config.isotropy_weight:
        add(isotropy_loss(_first_rows(shared.embeddings, layout), layout, config))
    for micro in micro_batches:
        nodes = micro.nodes.split(layout.shared_and_own)[1].long()
        own = rows_of(nodes)
        own.shorten_(longest)
        embeddings = (shared.embeddings, own.embeddings)
        add(micro_batch_loss(*embeddings, micro, layout, model.decoder, config, trainee.n3))
        grad.index_add_(0, nodes, own.gradient())
        del own, embeddings
    grad.index_add_(0, shared_nodes, shared.gradient())
    if projected is None:
        return grad, sums
    projected.backward(grad)
    return _gradient(hidden), sums


class _Rows:
    """Embeddings of some nodes in a step, as a leaf of autograd: losses leave their gradient there.

    states: [rows, hidden], or [rows, dim] where they are projected already. Overwritten.
    """

    def __init__(self, encoder: HGTEncoder | NodeTable, states: Tensor, is_projected: bool):
        self.encoder, self.states = encoder, states
        self.projected = states if is_projected else encoder.project(states.requires_grad_())
        self.embeddings = self.projected.detach().requires_grad_()
        self.factors: Tensor | None = None

    @torch.no_grad()
    def shorten_(self, longest: Tensor | None = None) -> Tensor | None:
        """Shortens long embeddings, see `length_bound`. Returns the greatest length, if any.

        longest: the greatest length; computed from these rows when not given.
        """
        if not self.encoder.bounds_lengths:
            return None
        longest = longest_length(self.embeddings) if longest is None else longest
        self.factors = shorten_(self.embeddings, longest)
        return longest

    def gradient(self) -> Tensor:
        """The gradient of the losses by the states."""
        grad = _gradient(self.embeddings)
        if self.factors is not None:
            grad = gradient_before_(grad, self.embeddings.detach(), self.factors)
        if self.projected is self.states:
            return grad
        self.projected.backward(grad)
        return _gradient(self.states)


def _first_rows(pools: Tensor, layout: Layout) -> Tensor:
    """The rows of the nodes in `Layout.directions`.

    By one split: the gradient of each slice would be a full-size tensor of zeros.
    """
    first = {pool: n for pool, n, _ in layout.directions}
    lengths: list[int] = []
    for pool, size in enumerate(layout.sections[: layout.head]):
        lengths += [first.get(pool, 0), size - first.get(pool, 0)]
    return torch.cat(pools.split(lengths)[::2])


def _gradient(of: Tensor) -> Tensor:
    assert of.grad is not None, "the losses depend on it"
    return of.grad
