"""The plan grows with what grows, and with nothing else."""

import pytest

from hgt.config import RunConfig
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.memory.plan import (
    plan_memory,
)
from hgt.training.step_form import StepForm
from tests.planned import plan_of_form
from tests.unit.hgt.memory.planned_graphs import GPU, graph_of_size, limited

pytestmark = pytest.mark.usefixtures("unchecked_shapes")


# What it grows with.

BASE = {
    "accumulation_steps": 1,
    "edge_sample_size": 3_000,
    "embedding_dim": 256,
    "hidden_dim": 128,
    "min_batches_per_epoch": 1,
}


@pytest.mark.parametrize(
    "larger",
    [
        *(
            {"embedding_dim": 512},
            {"hidden_dim": 256},
            {"num_layers": 4},
            {"num_negatives": 2048},
            {"edge_sample_size": 6_000},
        ),
        *({"num_nodes": 30_000}, {"num_facts": 300_000}),
    ],
    ids=str,
)
@pytest.mark.parametrize("device", ["cuda", "mps", "cpu"])
def test_the_plan_grows_with(device, larger):
    base = step_bytes(device)
    assert step_bytes(device, **larger) > 1.01 * base


def test_the_plan_grows_with_fewer_micro_batches():
    sizes = [step_bytes("cuda", accumulation_steps=n, edge_sample_size=20_000) for n in (1, 2, 4)]
    assert sizes[0] > sizes[1] > sizes[2]


def step_bytes(device, num_nodes=20_000, num_facts=200_000, **values):
    config = RunConfig.from_flat(BASE | values)
    return plan_of_form(
        graph_of_size(num_nodes, num_facts), config, limited(80 << 30, device), StepForm.of(config)
    ).phases["step"]


def test_the_plan_grows_with_relations():
    """The same facts told by twice as many relations: more matrices, more nodes to transform."""
    graph = graph_of_size(3_000, 20_000)
    halves = {}
    for (head, name, tail), index in graph.edge_index.items():
        middle = index.shape[1] // 2
        halves |= {
            (head, name, tail): index[:, :middle],
            (head, f"{name}_too", tail): index[:, middle:],
        }
    symmetric = frozenset(
        e for e in halves if (e[0], e[1].removesuffix("_too"), e[2]) in graph.symmetric
    )
    split_graph = KnowledgeGraph(graph.node_ids, graph.node_names, halves, symmetric)
    config = RunConfig()
    one, other = (plan_of_form(g, config, GPU, StepForm.of(config)) for g in (graph, split_graph))
    assert all(
        other.phases[phase] > one.phases[phase] for phase in ("step", "optimizer", "inference")
    )


def test_only_the_cpu_pays_for_the_process(graph, config):
    on_cpu, on_mps = (
        plan_memory(graph, config, limited(8 << 30, device)) for device in ("cpu", "mps")
    )
    assert on_cpu.parts["process"] > 100 << 20
    assert "process" not in on_mps.parts
    assert on_cpu.required_bytes > on_mps.required_bytes + (100 << 20)
