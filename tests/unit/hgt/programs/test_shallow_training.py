"""Shallow baselines: plain gradients, no messages, their own rate and regularisation."""

import pytest
import torch

from hgt.programs.shallow_training import n3_weight, shallow_trainee
from hgt.training.losses import micro_batch_loss
from hgt.training.step import train_step
from tests.unit.hgt.programs.test_baselines import CPU


@pytest.mark.parametrize("kind", ["distmult", "complex"])
@pytest.mark.parametrize(
    "values",
    [{}, {"num_negatives": 300, "accumulation_steps": 4}, {"dropout": 0.3, "edge_sample_size": 5}],
)
def test_a_shallow_step_is_the_plain_gradient_of_its_batch(graph, split, make_config, kind, values):
    """Whether all nodes or a batch's rows are projected: the step's gradients equal those of the
    loss written down directly.
    """
    trainee = shallow_trainee(kind, make_config(max_grad_norm=1e9, **values), graph, split, CPU)
    batch, model, layout = trainee.batches.draw(0, 1), trainee.model, trainee.batches.layout
    assert layout.contrast is None, "the link loss alone"
    model.train()
    torch.manual_seed(3)
    table = model.encoder.encode(trainee.messages)
    parts = [(m, table[m.nodes].split(layout.shared_and_own)) for m in batch.micro_batches]
    losses = [
        micro_batch_loss(*rows, m, layout, model.decoder, trainee.config.losses, trainee.n3)
        for m, rows in parts
    ]
    sum(part["total"] for part in losses).backward()
    expected = [p.grad.clone() for p in model.parameters()]
    torch.manual_seed(3)
    told = train_step(trainee, batch)
    assert told["total"].item() == pytest.approx(
        sum(part["total"].item() for part in losses), rel=1e-5
    )
    for p, grad in zip(model.parameters(), expected, strict=True):
        assert torch.allclose(p.grad, grad, atol=1e-6)


def test_how_a_shallow_model_is_held_back_and_how_fast_it_learns(graph, split, config):
    """Near what is best on three graphs, of 35,214, 1,000 and 26,574 nodes; and no more than was
    tried.
    """
    tuned = {(35_214, 931_253): 0.03, (1_000, 10_000): 0.1, (26_574, 99_676): 0.1}
    for sizes, best in tuned.items():
        assert best <= n3_weight(*sizes) < 1.5 * best
    assert n3_weight(1_000, 1_000) == 0.1
    trainee = shallow_trainee("complex", config, graph, split, CPU)
    assert trainee.n3 == n3_weight(graph.total_nodes, graph.total_facts)
    assert trainee.config.optimizer.learning_rate == pytest.approx(
        config.optimizer.learning_rate * 10
    )


def test_what_would_make_a_shallow_model_weaker_is_left_out(graph, split, make_config):
    values = {
        "contrastive_weight": 0.5,
        "isotropy_weight": 10.0,
        "num_neighbors": 8,
        "num_negatives": 20,
    }
    config = shallow_trainee(
        "complex", make_config(**values, softmax_correction=1.0), graph, split, CPU
    ).config
    losses = config.losses
    assert losses.contrastive_weight == losses.isotropy_weight == losses.softmax_correction == 0
    assert config.batches.num_neighbors is None
    trainees = [
        shallow_trainee("complex", make_config(**values, softmax_correction=c), graph, split, CPU)
        for c in (0.0, 1.0)
    ]
    assert all(set(t.batches.layout.log_weights) == {0.0} for t in trainees), (
        "sampled negatives count once each"
    )


def test_no_message_reaches_a_shallow_model(graph, split, config):
    trainee = shallow_trainee("distmult", config, graph, split, CPU)
    assert trainee.messages.num_edges == 0
    trainee.model.eval()
    assert torch.equal(
        trainee.model.encoder.encode(trainee.messages), trainee.model.encoder.node_embedding
    )
