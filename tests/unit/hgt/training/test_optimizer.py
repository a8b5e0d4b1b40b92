"""The learning rate from epoch to epoch, and what an update changes."""

import pytest
import torch

from hgt.config import RunConfig
from hgt.kernels.nodes import VALUE
from hgt.training.optimizer import learning_rate
from hgt.training.steps import Steps
from hgt.training.trainee import build_trainee

CPU = torch.device("cpu")
FALLEN = {"learning_rate": 0.01, "rate_decay_epochs": 5, "min_rate_decay_steps": 1}  # to a fiftieth


def test_the_learning_rate_falls_along_half_a_cosine_and_stays():
    config = RunConfig.from_flat(
        {"learning_rate": 0.01, "rate_decay_epochs": 40, "min_rate_decay_steps": 800}
    ).optimizer
    assert [learning_rate(config, epoch, 20) for epoch in (0, 20, 40, 400)] == pytest.approx(
        [0.01, 0.0051, 0.0002, 0.0002]
    )
    assert [learning_rate(config, epoch, 10) for epoch in (0, 40, 80, 400)] == pytest.approx(
        [0.01, 0.0051, 0.0002, 0.0002]
    ), "by steps"
    falling = [learning_rate(config, epoch, 20) for epoch in range(41)]
    assert falling == sorted(falling, reverse=True)
    assert (
        learning_rate(
            RunConfig.from_flat({"learning_rate": 0.01, "rate_decay_epochs": 0}).optimizer,
            9_999,
            20,
        )
        == 0.01
    )


def test_the_steps_of_an_epoch_are_made_at_its_rate(graph, split, make_config):
    """Adam's first step moves a weight by the learning rate, whatever its gradient."""
    trainee = build_trainee(make_config(**FALLEN), graph, split, CPU)
    weight = trainee.model.decoder.relation
    before = weight.detach().clone()
    Steps(trainee, epoch=7)(trainee.batches.draw(7, 0))
    assert (weight - before).abs().max().item() == pytest.approx(0.01 / 50, rel=0.01)


def test_maps_of_keys_queries_and_relations_decay_beside_adams_step(graph, split, make_config):
    """And nothing else does: values, outputs, biases, gates, input embeddings, projection and
    decoder are as without it.
    """
    models = []
    for decay in (0.0, 40.0):
        trainee = build_trainee(make_config(weight_decay=decay, **FALLEN), graph, split, CPU)
        before = {
            name: weights.detach().clone() for name, weights in trainee.model.named_parameters()
        }
        trainee.model.train()
        torch.manual_seed(3)
        Steps(trainee, epoch=7)(trainee.batches.draw(7, 0))
        models.append(
            {name: weights.detach() for name, weights in trainee.model.named_parameters()}
        )
    without, decayed = models
    layers = [f"encoder.layers.{i}." for i in range(len(trainee.model.encoder.layers))]
    maps = {f"{layer}projection": (slice(None), slice(VALUE)) for layer in layers} | {
        f"{layer}key_transform": slice(None) for layer in layers
    }
    for name, weights in without.items():
        lost = torch.zeros_like(weights)
        if name in maps:
            lost[maps[name]] = 40 * 0.01 / 50 * before[name][maps[name]]
        torch.testing.assert_close(decayed[name], weights - lost, msg=lambda m, n=name: f"{n}: {m}")
        assert torch.equal(decayed[name][lost == 0], weights[lost == 0]), name
