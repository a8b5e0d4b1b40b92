"""The average of the weights: its formula, when it looks, that it is what is evaluated and kept,
and that it goes on exactly.
"""

import itertools

import pytest
import torch
from torch import nn

from hgt.evaluation.fact_index import FactIndex
from hgt.graph.split import VAL
from hgt.programs.weights import load_weights, weight_tensors
from hgt.training.average import WeightAverage
from hgt.training.steps import Steps
from hgt.training.trainee import build_trainee
from hgt.training.val_metrics import evaluate_val

CPU = torch.device("cpu")


def one_weight(decay, steps_per_epoch):
    """A model whose weight is the number of the step, and its average."""
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.zero_()
    return model, WeightAverage(model, decay, steps_per_epoch)


def trained(average, model, steps):
    for step in steps:
        with torch.no_grad():
            model.weight.fill_(float(step))
        average.after_step(step)
        yield average.tensors["weight"].item()


def by_formula(decay, looks):
    """Every look's average, one number at a time."""
    value, before = 0.0, 0
    for step in looks:
        kept = 0.0 if before == 0 else min(decay, (1 + step) / (10 + step)) ** (step - before)
        value, before = kept * value + (1 - kept) * step, step
        yield value


@pytest.mark.parametrize(
    ("steps_per_epoch", "looks"),
    [
        (40, [*range(1, 11), 20, 30, 40, 50, 60, 70, 80]),
        (14, [*range(1, 11), 14, 24, 28, 38, 42, 52, 56]),  # tenths of an epoch and its end
        (3, [*range(1, 11), *range(12, 60, 3)]),
    ],
)
@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_it_is_the_moving_average_of_what_it_looks_at(decay, steps_per_epoch, looks):
    model, average = one_weight(decay, steps_per_epoch)
    told = dict(
        zip(range(1, looks[-1] + 1), trained(average, model, range(1, looks[-1] + 1)), strict=True)
    )
    for step, expected in zip(looks, by_formula(decay, looks), strict=True):
        assert told[step] == pytest.approx(expected, rel=1e-5)
    for before, after in itertools.pairwise(looks):
        assert len({told[step] for step in range(before, after)}) == 1, (
            "between two looks nothing changes"
        )


def test_the_first_step_is_not_mixed_with_the_beginning():
    model, average = one_weight(0.99, 5)
    assert next(trained(average, model, [1])) == 1.0


def test_in_the_model_it_changes_places_with_the_weights():
    model, average = one_weight(0.99, 100)
    *_, value = trained(average, model, range(1, 16))
    assert value != 15
    with average.in_model():
        assert model.weight.item() == pytest.approx(value)
        assert average.tensors["weight"].item() == 15
    assert (model.weight.item(), average.tensors["weight"].item()) == (15, pytest.approx(value))
    with pytest.raises(RuntimeError, match="amid"), average.in_model():
        raise RuntimeError("amid")
    assert model.weight.item() == 15, "also where what was done with it fails"


def test_without_decay_there_is_none(graph, split, make_config):
    trainee = build_trainee(make_config(average_decay=0.0), graph, split, CPU)
    assert trainee.average is None
    assert set(weight_tensors(trainee)) == {f"model.{name}" for name in trainee.model.state_dict()}
    before = trainee.model.decoder.relation.clone()
    with trainee.averaged():
        assert torch.equal(trainee.model.decoder.relation, before)


def after_steps(trainee, epoch, numbers):
    steps = Steps(trainee, epoch)
    trainee.model.train()
    for number in numbers:
        steps(trainee.batches.draw(epoch, number))


def test_steps_train_the_weights_as_without_an_average(graph, split, make_config):
    """It only looks."""
    with_one, without = (
        build_trainee(make_config(average_decay=decay), graph, split, CPU) for decay in (0.9, 0.0)
    )
    for trainee in (with_one, without):
        after_steps(trainee, 0, range(3))
        trainee.model.eval()
    for name, weights in without.model.state_dict().items():
        assert torch.equal(with_one.model.state_dict()[name], weights)
        assert not torch.equal(with_one.average.tensors[name], weights)


def test_validation_ranks_with_the_average(graph, split, make_config):
    trainee = build_trainee(make_config(average_decay=0.9), graph, split, CPU)
    after_steps(trainee, 0, range(3))
    facts, index = split.of(VAL), FactIndex(graph)
    told = evaluate_val(trainee, facts, index)
    averaged = build_trainee(make_config(average_decay=0.0), graph, split, CPU)
    averaged.model.load_state_dict(trainee.average.tensors)
    assert evaluate_val(averaged, facts, index) == told
    averaged.model.load_state_dict(trainee.model.state_dict())
    assert evaluate_val(averaged, facts, index) != told


def test_what_is_kept_is_loaded_again(graph, split, make_config):
    """That a resumed training then equals one that was not interrupted is in `test_training.py`."""
    one, other = (
        build_trainee(make_config(average_decay=0.9, seed=seed), graph, split, CPU)
        for seed in (0, 7)
    )
    after_steps(one, 0, range(3))
    kept = weight_tensors(one)
    for name, tensor in one.average.tensors.items():
        assert torch.equal(kept[f"model.{name}"], tensor)
    load_weights(other, kept)
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[name], tensor)
        assert torch.equal(other.average.tensors[name], one.average.tensors[name])
