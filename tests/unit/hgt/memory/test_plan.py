"""The plan: it agrees with the tensors that really live, picks the largest form that fits, and
refuses with figures and remedies.
"""

import dataclasses
import functools
import itertools
import json
import math
import re

import pytest
import torch

from hgt.config import RunConfig
from hgt.errors import InputError
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.memory.plan import (
    MemoryPlan,
    memory_limit,
    plan_memory,
    probe_for_plan,
    refuse_what_cannot_fit,
)
from hgt.reading.edge_table import read_edge_table
from hgt.training.step_form import StepForm
from tests.bench.graphs import PRIMEKG_SIZE, primekg_like, write_csv
from tests.planned import plan_of_form
from tests.unit.hgt.memory.planned_graphs import COMPUTED_AGAIN, GPU, forms, graph_of_size, limited
from tests.unit.hgt.memory.test_moments import CASES, NARROW, ON_CPU
from tests.unit.hgt.pairwise import pairwise

pytestmark = pytest.mark.usefixtures("unchecked_shapes")
CASES |= {
    "dense": (5_000, 400_000, {}, {}),
    "dense, 4 drawn": (5_000, 400_000, {"num_neighbors": 4}, {}),
    "dense, 16 drawn": (5_000, 400_000, {"num_neighbors": 16}, {}),
    "dense and narrow": (2_000, 200_000, NARROW | {"num_neighbors": None}, COMPUTED_AGAIN),
    "dense, a tenth drawn": (2_000, 200_000, NARROW, {"keep_projections": False}),
    "dense, a tenth drawn, projections kept": (2_000, 200_000, NARROW, {}),
}
ON_CPU += [
    "no average",
    "drawn edges, computed again",
    "dense, 16 drawn",
    "dense and narrow",
    "dense, a tenth drawn",
]


def test_a_plan_is_the_largest_of_its_phases(graph, config):
    plan = plan_memory(graph, config, GPU)
    assert set(plan.phases) == {"step", "optimizer", "inference", "evaluation"}
    assert plan.required_bytes == max(plan.phases.values())
    assert plan.phases["step"] == sum(plan.parts.values())
    assert (plan.device, plan.limit_bytes) == ("cuda", GPU.limit_bytes)


@pytest.mark.slow
def test_primekg_is_planned_from_counts_alone():
    """The step on an H100 takes 3 GB in its largest form."""
    graph, config = primekg_like(*PRIMEKG_SIZE), RunConfig()
    plans = [plan_of_form(graph, config, GPU, form) for form in forms(config)]
    assert 2 << 30 < plans[0].required_bytes < 4 << 30
    assert plans[-1].required_bytes < plans[0].required_bytes / 1.5


# Forms.

# Twice as many micro-batches bring the nodes of their pools twice, and padding where relations have
# few facts; on small graphs it shows.
MORE_PARTS = 1.03
CONFIGURATIONS = [
    {},
    {"num_layers": 1},
    {"num_layers": 3, "embedding_dim": 64},
    {"recompute_layers": True},
    {"accumulation_steps": 3},
]


@pytest.mark.parametrize("values", CONFIGURATIONS, ids=str)
def test_smaller_forms_come_to_an_end(values):
    chain = list(forms(RunConfig.from_flat(values)))
    assert len(set(chain)) == len(chain)
    assert chain[0].accumulation_steps == RunConfig.from_flat(values).batches.accumulation_steps
    assert chain[-1].recompute_layers
    assert not chain[-1].keep_projections
    assert chain[-1].accumulation_steps >= 64
    assert chain[-1].smaller() is None
    for larger, smaller in itertools.pairwise(chain):
        assert smaller.accumulation_steps >= larger.accumulation_steps
        assert smaller.table_rows <= larger.table_rows
        assert smaller.group_edges <= larger.group_edges


@pytest.mark.parametrize(
    ("size", "values", "device"),
    pairwise(
        [(3_000, 20_000), (20_000, 60_000), (20_000, 600_000)],
        CONFIGURATIONS,
        ["cuda", "mps", "cpu"],
    ),
)
def test_each_smaller_form_plans_no_more_than_the_one_before(size, values, device):
    config = RunConfig.from_flat(values)
    planned = [
        plan_of_form(graph_of_size(*size), config, limited(80 << 30, device), form).phases["step"]
        for form in forms(config)
    ]
    assert all(smaller <= MORE_PARTS * larger for larger, smaller in itertools.pairwise(planned)), (
        planned
    )
    # the last may be above: pools come with every micro-batch
    assert min(planned) < planned[0] or config.execution.recompute_layers


def test_more_micro_batches_never_take_more():
    """Where a batch has few rows for its many nodes, each micro-batch's rows are projected; many
    micro-batches must not change that.
    """
    config = RunConfig.from_flat(
        {"embedding_dim": 1024, "hidden_dim": 64, "edge_sample_size": 500, "accumulation_steps": 1}
    )
    planned = [
        plan_of_form(graph_of_size(20_000, 60_000), config, GPU, form).phases["step"]
        for form in forms(config)
    ]
    assert all(smaller <= MORE_PARTS * larger for larger, smaller in itertools.pairwise(planned)), (
        planned
    )


def test_a_tenth_of_the_limit_is_left_over():
    plan = MemoryPlan("cuda", 100, {}, {}, StepForm.of(RunConfig()), 90)
    assert plan.fits
    assert not dataclasses.replace(plan, required_bytes=91).fits


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_the_largest_form_that_fits_is_chosen(device):
    graph, config = (
        graph_of_size(20_000, 60_000),
        RunConfig.from_flat({"embedding_dim": 128, "hidden_dim": 128, "num_val_edges": 500}),
    )
    chain = list(forms(config))
    required = [
        plan_of_form(graph, config, limited(80 << 30, device), form).required_bytes
        for form in chain
    ]
    chosen = set()
    for n in required:
        limit = math.ceil(n / 0.9)
        plan = plan_memory(graph, config, limited(limit, device))
        chosen.add(plan.form)
        assert plan.fits
        assert plan.limit_bytes == limit
        assert chain.index(plan.form) == next(
            i for i, other in enumerate(required) if other <= n
        ), "the first in line that takes no more"
    assert len(chosen) > 2
    assert not plan_memory(graph, config, limited(min(required) / 0.9 - 10, device)).fits
    assert plan_memory(graph, config, limited(80 << 30, device)).form == StepForm.of(config)


# Refusals.


@functools.cache
def edge_table_of_size(folder, num_nodes, num_facts):
    path = folder / f"{num_nodes}-{num_facts}.csv"
    write_csv(graph_of_size(num_nodes, num_facts), path)
    return read_edge_table(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tables")


REFUSED = {
    "small": ((5_000, 20_000), {}),
    "dense": ((5_000, 300_000), {}),
    "narrow": ((5_000, 20_000), {"embedding_dim": 64, "hidden_dim": 64}),
    "wide embeddings": ((5_000, 20_000), {"embedding_dim": 2048, "hidden_dim": 64}),
}
_FAST_REFUSED = (("small", 0.9), ("dense", 0.7), ("narrow", 0.5), ("wide embeddings", 0.9))


@pytest.mark.parametrize(
    ("which", "share"),
    [
        pytest.param(
            which, share, marks=() if (which, share) in _FAST_REFUSED else pytest.mark.slow
        )
        for which in REFUSED
        for share in (0.9, 0.7, 0.5)
    ],
)
def test_a_refusal_names_both_figures_and_what_would_fit(folder, which, share):
    """Each suggestion is tried: the graph of that many nodes, the model of that size."""
    size, values = REFUSED[which]
    table, config = edge_table_of_size(folder, *size), RunConfig.from_flat(values)
    graph = KnowledgeGraph.from_edge_table(table, config.graph)
    smallest = min(
        plan_of_form(graph, config, limited(80 << 30, "mps"), form).required_bytes
        for form in forms(config)
    )
    probe = limited(share * smallest, "mps")
    plan = plan_memory(graph, config, probe)
    with pytest.raises(InputError) as refused:
        refuse_what_cannot_fit(plan, graph, config, probe)
    message = str(refused.value)
    assert f"{plan.required_bytes:,} bytes on mps" in message
    assert f"{probe.limit_bytes:,} are available" in message
    assert "embedding" not in message
    suggestions = re.findall(r"--([a-z-]+) (\d+)", message)
    assert bool(suggestions) == ("What would fit" in message)
    if share == 0.9:
        assert suggestions
    for option, value in suggestions:
        name, slack = option.replace("-", "_"), 1.0
        changed = RunConfig.from_flat(values | {name: int(value)})
        sample = graph
        if name == "limit_nodes":
            # how many facts a sample has is not known before
            sample, slack = KnowledgeGraph.from_edge_table(table, changed.graph), 1.05
            assert 0.8 * int(value) <= sample.total_nodes <= int(value) < graph.total_nodes
        assert changed.model.embedding_dim == config.model.embedding_dim
        assert plan_memory(
            sample, changed, dataclasses.replace(probe, limit_bytes=int(slack * probe.limit_bytes))
        ).fits, (option, value)


def test_a_plan_that_fits_is_not_refused(graph, config):
    refuse_what_cannot_fit(plan_memory(graph, config, GPU), graph, config, GPU)


# Devices and limits.


def test_a_device_that_is_elsewhere_can_be_planned_for():
    config = RunConfig.from_flat({"device": "mps", "memory": "16GB"})
    if not torch.backends.mps.is_available():
        assert (probe_for_plan(config).type, probe_for_plan(config).limit_bytes) == (
            "mps",
            16 * 10**9,
        )
        with pytest.raises(InputError, match="mps is not available"):
            probe_for_plan(RunConfig.from_flat({"device": "mps"}))
    assert (
        probe_for_plan(RunConfig.from_flat({"device": "cpu", "memory": "1GiB"})).limit_bytes
        == 1 << 30
    )
    assert memory_limit(RunConfig()) is None


def test_the_plan_for_people_and_for_the_file(graph, config):
    plan = plan_memory(graph, config, dataclasses.replace(GPU, type="cpu"))
    text = plan.table()
    assert all(name in text for name in [*plan.phases, *plan.parts, str(plan.form)])
    assert (
        f"{plan.required_bytes / 2**20:,.0f} MiB  at the peak, of {80 << 10:,} MiB available"
        in text
    )
    told = json.loads(json.dumps(dataclasses.asdict(plan)))
    assert MemoryPlan(**told | {"form": StepForm(**told["form"])}) == plan
