"""The gradient collected on the embeddings is the gradient of the loss."""

import pytest
import torch

from hgt.training.losses import isotropy_loss, micro_batch_loss
from hgt.training.step import removed_edges, train_step
from hgt.training.trainee import build_trainee

CPU = torch.device("cpu")
FEW_ROWS = {
    "num_negatives": 2,
    "contrastive_weight": 0.0,
    "min_batches_per_epoch": 100,
    "accumulation_steps": 1,
}


def shortened_row_by_row(rows, longest):
    """As `length_bound` says, one row after the other.

    A row's lengthening gradient is left out by a hook.
    """

    def shortened(row):
        if row.norm() <= longest:
            return row
        out = row * float(longest / row.detach().norm())
        along = out.detach() / out.detach().norm()
        out.register_hook(lambda grad: grad - along * (grad @ along).clamp_max(0))
        return out

    return torch.stack([shortened(row) for row in rows])


@pytest.mark.parametrize(
    "values", [{"accumulation_steps": 3}, FEW_ROWS], ids=["many rows", "few rows"]
)
def test_gradients_equal_those_of_one_plain_backward(graph, split, make_config, values):
    """One backward pass of the whole loss gives the same, not only every number of parts.

    Either all nodes are projected to embeddings at once, or the rows of each micro-batch, whichever
    is less work.
    """
    config = make_config(max_grad_norm=1e9, **values)
    stepped, plain = (build_trainee(config, graph, split, CPU) for _ in range(2))
    batch = stepped.batches.draw(0, 0)
    projected = []
    stepped.model.encoder.projection.register_forward_hook(
        lambda module, inputs, output: projected.append(len(output))
    )
    train_step(stepped, batch)
    of_step = stepped.batches.layout
    of_parts = [
        of_step.num_shared,
        *[of_step.num_rows - of_step.num_shared] * len(batch.micro_batches),
    ]
    assert projected == (of_parts if values is FEW_ROWS else [graph.total_nodes])
    encoder, layout = plain.model.encoder, plain.batches.layout
    unbounded = encoder.project(encoder.hidden(plain.messages, removed_edges(plain, batch)))
    shared = unbounded[batch.micro_batches[0].nodes[: layout.num_shared]]
    longest = 1.5 * shared.detach().norm(dim=1).log().mean().exp()
    assert 0 < (unbounded.norm(dim=1) > longest).sum() < len(unbounded)
    # the same in all parts; other rows are shortened part by part
    shared = shortened_row_by_row(shared, longest)
    parts = [
        (m, shortened_row_by_row(unbounded[m.nodes[layout.num_shared :]], longest))
        for m in batch.micro_batches
    ]
    losses = [
        micro_batch_loss(shared, own, m, layout, plain.model.decoder, config.losses)
        for m, own in parts
    ]
    pools = shared.split(layout.sections[: layout.head])
    compared = torch.cat([pools[pool][:n] for pool, n, _ in layout.directions])
    losses.append(isotropy_loss(compared, layout, config.losses))
    sum(loss["total"] for loss in losses).backward()
    for a, b in zip(stepped.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(
            a.grad, torch.zeros_like(a) if b.grad is None else b.grad, atol=1e-5, rtol=1e-5
        )
