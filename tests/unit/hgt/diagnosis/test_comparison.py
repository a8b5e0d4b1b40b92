"""The comparison finds what a faulty device would do, the CPU standing for both sides, and finds
nothing where nothing is wrong.
"""

import dataclasses

import numpy as np
import pytest
import torch

from hgt.diagnosis.comparison import compare_devices, differences_of
from hgt.diagnosis.difference import TOLERANCES
from hgt.diagnosis.first_steps import run_steps
from hgt.diagnosis.workload import Workload, synthetic_graph
from hgt.errors import DeviceRefused, OutOfMemory
from hgt.training.step import train_step
from tests.unit.hgt.faulty_products import faulty_step

pytestmark = pytest.mark.usefixtures("unchecked_shapes")
CPU = torch.device("cpu")
SMALL = Workload(
    first=(1500, 200, 100), other=(1700, 150, 120),
    parameters={"hidden_dim": 32, "embedding_dim": 32, "num_heads": 4, "num_negatives": 20},
)  # fmt: skip
CASES = ["first shapes", "other shapes", "dirty memory"]


def compare(step=train_step, workload=SMALL):
    return compare_devices(CPU, CPU, lambda line: None, workload, step)


@pytest.fixture(scope="module")
def result():
    return run_steps(SMALL.config(), synthetic_graph(*SMALL.first, seed=1), CPU, train_step)


def test_the_cpu_computes_what_the_cpu_computes():
    said = []
    comparison = compare_devices(CPU, CPU, said.append, SMALL)
    assert comparison.first_wrong is None
    assert [(d.case, d.quantity) for d in comparison.differences] == [
        (case, quantity) for case in CASES for quantity in TOLERANCES
    ]
    assert all(d.value <= d.tolerance / 10 for d in comparison.differences), (
        "rounding alone stays far below the tolerance"
    )
    assert comparison.plain_product < 1e-5
    table = comparison.table()
    assert table.count(" same ") + table.count(" same\n") == len(comparison.differences)
    assert "WRONG" not in table
    assert "seconds per step: cpu (reference)" in table
    assert len(said) == 5


def test_wrong_products_are_found():
    """As MPS's would be, were there more rows in a reduction than it can: here from 1,000 on."""
    step, defect = faulty_step(from_rows=1000)
    comparison = compare(step)
    assert defect.wrong > 0
    assert comparison.first_wrong.quantity == "gradients"
    assert comparison.first_wrong.value > 10 * comparison.first_wrong.tolerance
    assert {d.case for d in comparison.differences if not d.agrees} == set(CASES)
    assert "WRONG" in comparison.table()


def test_products_that_are_short_enough_are_not_touched():
    step, defect = faulty_step(from_rows=5000)
    assert compare(step).first_wrong is None
    assert defect.wrong == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_step_avoids_mps_wrong_products_at_production_sizes():
    step, defect = faulty_step(from_rows=32_767)
    assert compare(step, Workload()).first_wrong is None
    assert defect.wrong == 0


def test_production_sizes():
    workload, config = Workload(), Workload().config()
    assert (config.model.hidden_dim, config.model.embedding_dim, config.model.num_heads) == (
        256,
        512,
        8,
    )
    assert min(config.model.dropout, config.model.input_dropout) > 0, (
        "what is dropped is compared, too"
    )
    for sizes, seed in ((workload.first, 1), (workload.other, 2)):
        graph = synthetic_graph(*sizes, seed=seed)
        assert graph.total_facts > 50_000
        head, tail = graph.edge_index["gene/protein", "protein_protein", "gene/protein"]
        assert len(torch.unique(torch.cat([head, tail]))) > 32_767, (
            "one relation alone has that many nodes on either side"
        )
        for (head_type, _, tail_type), index in graph.edge_index.items():
            assert (index[0] < graph.num_nodes[head_type]).all()
            assert (index[1] < graph.num_nodes[tail_type]).all()
    assert workload.first != workload.other


def test_the_real_step_has_a_contrastive_part():
    """Some diseases are alike, or a part of the step would go unseen."""
    from hgt.graph.split import split_facts
    from hgt.training.trainee import build_trainee

    for workload in (SMALL, Workload()):
        graph = synthetic_graph(*workload.first, seed=1)
        trainee = build_trainee(
            workload.config(), graph, split_facts(graph, workload.config().split), CPU
        )
        assert trainee.batches.contrast is not None


LATER = {"losses of the next step", "losses of the third step"}


def spoilt(step=train_step, from_call=1, **changes):
    """The step with something done to the trainee after it, from a certain call on (three calls
    make a case).
    """
    calls = 0

    def run(trainee, batch):
        nonlocal calls
        calls += 1
        losses = dict(step(trainee, batch))
        if calls >= from_call:
            changes["change"](trainee, losses)
        return losses

    return run


@torch.no_grad()
def shift_gradients(trainee, losses):
    trainee.model.decoder.relation.grad *= 1.001


@torch.no_grad()
def one_gradient_is_nan(trainee, losses):
    trainee.model.decoder.relation.grad[0, 0] = float("nan")


@torch.no_grad()
def shift_parameters(trainee, losses):
    trainee.model.encoder.node_embedding += 1e-2


@torch.no_grad()
def forget_the_update_of_one_row(trainee, losses):
    trainee.model.encoder.node_embedding[50] += 1e-3


def lose_the_gradient(trainee, losses):
    trainee.model.decoder.relation.grad = None


def shift_the_loss(trainee, losses):
    losses["link"] = losses["link"] * 1.0002


@pytest.mark.parametrize(
    ("change", "quantities"),
    [
        (shift_gradients, {"gradients"}),  # Adam's first step is blind to the scale
        (one_gradient_is_nan, {"gradients", "Adam's step"}),
        (lose_the_gradient, {"gradients"}),
        (shift_parameters, {"Adam's step", *LATER}),
        (forget_the_update_of_one_row, {"Adam's step"}),
        (shift_the_loss, {"losses", *LATER}),
    ],
)
def test_each_thing_that_can_go_wrong_is_found_where_it_is(change, quantities):
    comparison = compare(spoilt(change=change))
    assert {d.quantity for d in comparison.differences if not d.agrees} == quantities
    assert comparison.first_wrong.case == CASES[0]
    assert comparison.first_wrong.quantity in quantities
    assert comparison.first_wrong.where


def test_what_goes_wrong_only_later_is_found_in_that_case():
    """As memory of an earlier run that is read before it is written."""
    comparison = compare(spoilt(change=one_gradient_is_nan, from_call=7))
    assert {d.case for d in comparison.differences if not d.agrees} == {"dirty memory"}
    assert np.isnan(comparison.first_wrong.value)
    assert "nan" in comparison.table()


def scaled(tensor, by):
    return tensor + by * tensor.norm() / np.sqrt(tensor.numel())


@pytest.mark.parametrize(
    ("factor", "agrees"), [(0.5, True), (2.0, False), (float("nan"), False), (float("inf"), False)]
)
def test_tolerances_are_where_they_are_said_to_be(result, factor, agrees):
    def moved(quantity):
        by = factor * TOLERANCES[quantity]
        name = "encoder.projection.weight"
        loss = {n: v * (1 + by) if n == "link" else v for n, v in result.losses.items()}
        next_loss = {n: v * (1 + by) if n == "total" else v for n, v in result.next_losses.items()}
        third_loss = {n: v * (1 + by) if n == "link" else v for n, v in result.third_losses.items()}
        return dataclasses.replace(
            result,
            **{
                "embeddings": {"embeddings": scaled(result.embeddings, by)},
                "losses": {"losses": loss},
                "gradients": {
                    "gradients": result.gradients | {name: scaled(result.gradients[name], by)}
                },
                "Adam's step": {"update_error": result.update_error | {name: by}},
                "losses of the next step": {"next_losses": next_loss},
                "losses of the third step": {"third_losses": third_loss},
            }[quantity],
        )

    for quantity in TOLERANCES:
        wrong = [
            d.quantity for d in differences_of("case", result, moved(quantity)) if not d.agrees
        ]
        assert wrong == ([] if agrees else [quantity])


def test_one_wrong_row_of_a_large_table_is_found(result):
    gradient = result.gradients["encoder.node_embedding"].clone()
    row = gradient.norm(dim=1).argmax()
    gradient[row] = gradient[row].roll(1)
    found = dataclasses.replace(
        result, gradients=result.gradients | {"encoder.node_embedding": gradient}
    )
    (wrong,) = [d for d in differences_of("case", result, found) if not d.agrees]
    assert (wrong.quantity, wrong.where) == ("gradients", "encoder.node_embedding")


def test_a_step_that_cannot_run_refuses_the_device():
    def step(trainee, batch):
        raise NotImplementedError(
            "The operator 'aten::segment_reduce' is not currently implemented for the MPS"
            " device.\nMore."
        )

    with pytest.raises(
        DeviceRefused,
        match=r"fails in case 'first shapes': The operator 'aten::segment_reduce'.*device\.$",
    ):
        compare(step)


def test_too_little_memory_is_no_refusal():
    def step(trainee, batch):
        torch.empty(2**60, dtype=torch.uint8)

    with pytest.raises(OutOfMemory) as caught:
        compare(step)
    assert caught.value.phase == "step"
