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
from hgt.device.probe import DeviceProbe
from hgt.embeddings import table as embeddings
from hgt.embeddings.table import infer_layerwise
from hgt.errors import InputError
from hgt.evaluation.ranking import FactIndex, rank_facts, sample_facts
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.split import TEST, VAL, split_facts
from hgt.kernels.edges import ChunkedKernels, FusedKernels
from hgt.kernels.nodes import CpuNodeKernels, NodeKernels
from hgt.memory import moments as memory_moments
from hgt.memory.plan import (
    MemoryPlan,
    memory_limit,
    plan_memory,
    probe_for_plan,
    refuse_what_cannot_fit,
)
from hgt.messages.message_graph import EdgeList, edges_into, training_message_graph
from hgt.messages.step_messages import DrawnEdges
from hgt.model import attention, layer, layer_pass
from hgt.model.hgt_model import HGTModel
from hgt.reading.edge_table import read_edge_table
from hgt.training import sampled_softmax
from hgt.training.step import step_inputs, train_step
from hgt.training.step_form import StepForm
from hgt.training.trainee import build_trainee
from hgt.training.val_metrics import evaluate_val
from tests.bench.graphs import PRIMEKG_SIZE, primekg_like, write_csv
from tests.planned import plan_of_form
from tests.unit.hgt.live_bytes import LiveBytes, tensors_in
from tests.unit.hgt.pairwise import pairwise

pytestmark = pytest.mark.usefixtures("unchecked_shapes")
GPU = DeviceProbe("cuda", "a GPU", 80 << 30, "made for this test", torch.__version__, "x86_64")
graph_of_size = functools.cache(primekg_like)
COMPUTED_AGAIN = {"recompute_layers": True, "keep_projections": False}


def forms(config):
    """From the largest to the smallest."""
    form = StepForm.of(config)
    for _ in range(30):
        yield form
        form = form.smaller()
        if form is None:
            return
    pytest.fail("there is no smallest form")


def limited(limit_bytes, device="cuda"):
    return dataclasses.replace(GPU, type=device, limit_bytes=int(limit_bytes))


def test_live_bytes_counts_what_lives():
    """The measure itself, on a sequence whose peak is known: views, in-place operations and saved
    tensors included.
    """
    standing = torch.ones(1000)
    with LiveBytes({"given": [standing]}) as live:
        assert live.now == 4000
        a = standing + 1
        a.view(10, 100).mul_(2)
        assert live.now == 8000, "views and what is done in place take nothing"
        del a
        assert live.now == 4000
        x = torch.ones(1000, requires_grad=True)
        y = (x.exp() * 2).exp()  # two are saved for the backward pass, the one in between is freed
        assert (live.now, live.peak) == (16_000, 20_000)
        y.sum().backward()
        assert live.now == 16_000, "x's gradient is there, exp(x) is not any more"
        del x, y
    assert live.now == 4000


# The plan against the truth.

# nodes, facts, parameters of the run, fields of the step's form
CASES = {
    "few nodes": (1_000, 10_000, {"embedding_dim": 64}, {}),
    "defaults": (3_000, 20_000, {}, {}),
    "contrastive loss": (3_000, 20_000, {"contrastive_weight": 0.5}, {}),
    "narrow": (3_000, 20_000, {"embedding_dim": 64, "hidden_dim": 64}, {}),
    "four layers": (3_000, 15_000, {"num_layers": 4, "hidden_dim": 128}, {}),
    "four layers computed again": (
        3_000,
        15_000,
        {"num_layers": 4, "hidden_dim": 128},
        COMPUTED_AGAIN,
    ),
    "no dropout on inputs": (3_000, 20_000, {"input_dropout": 0.0}, {}),
    "no average": (3_000, 20_000, {"hidden_dim": 64, "average_decay": 0.0}, {}),
    "typed negatives": (6_000, 30_000, {"hidden_dim": 64, "num_other_negatives": 0}, {}),
    "many other negatives": (
        6_000,
        30_000,
        {"hidden_dim": 64, "num_negatives": 64, "num_other_negatives": 64},
        {},
    ),
    "distmult": (6_000, 30_000, {"hidden_dim": 64, "decoder": "distmult"}, {}),
    "one layer, one micro-batch": (6_000, 30_000, {"num_layers": 1, "accumulation_steps": 1}, {}),
    "three layers": (
        6_000,
        30_000,
        {"num_layers": 3, "embedding_dim": 128, "hidden_dim": 128},
        {"keep_projections": False},
    ),
    "wide embeddings": (
        6_000,
        30_000,
        {"embedding_dim": 1024, "hidden_dim": 64, "accumulation_steps": 2, "decoder": "complex"},
        {},
    ),
    "many negatives": (
        10_000,
        50_000,
        {"embedding_dim": 64, "hidden_dim": 64, "num_negatives": 1024, "accumulation_steps": 1},
        {},
    ),
    "small tables": (
        10_000,
        50_000,
        {"embedding_dim": 128, "hidden_dim": 128},
        {"table_rows": 2_048, "group_edges": 32_768},
    ),
    "half precision": (6_000, 30_000, {"hidden_dim": 64, "mixed_precision": True}, {}),
    "smallest form": (
        *(
            6_000,
            60_000,
            {
                "embedding_dim": 64,
                "hidden_dim": 64,
                "dropout": 0.0,
                "input_dropout": 0.0,
                "num_val_edges": 500,
            },
        ),
        COMPUTED_AGAIN | {"table_rows": 4_096, "group_edges": 65_536, "accumulation_steps": 64},
    ),
    "large": (20_000, 60_000, {"embedding_dim": 256, "hidden_dim": 64, "num_val_edges": 500}, {}),
    "drawn edges": (3_000, 60_000, {"hidden_dim": 128, "num_neighbors": 8}, {}),
    "drawn edges, small tables": (
        *(
            10_000,
            100_000,
            {"embedding_dim": 128, "hidden_dim": 64, "num_neighbors": 4, "accumulation_steps": 8},
        ),
        {"table_rows": 2_048, "group_edges": 16_384, "keep_projections": False},
    ),
    "drawn edges, computed again": (
        5_000,
        100_000,
        {"num_layers": 3, "hidden_dim": 64, "num_neighbors": 16},
        COMPUTED_AGAIN,
    ),
    "rows projected": (
        *(
            10_000,
            30_000,
            {
                "hidden_dim": 64,
                "edge_sample_size": 500,
                "accumulation_steps": 1,
                "num_val_edges": 500,
            },
        ),
        {"keep_projections": False},
    ),
}
# Here the edges outweigh the rest.
_NARROW = {
    "hidden_dim": 64,
    "embedding_dim": 64,
    "accumulation_steps": 16,
    "num_val_edges": 500,
    "num_neighbors": 4,
}
CASES |= {
    "dense": (5_000, 400_000, {}, {}),
    "dense, 4 drawn": (5_000, 400_000, {"num_neighbors": 4}, {}),
    "dense, 16 drawn": (5_000, 400_000, {"num_neighbors": 16}, {}),
    "dense and narrow": (2_000, 200_000, _NARROW | {"num_neighbors": None}, COMPUTED_AGAIN),
    "dense, a tenth drawn": (2_000, 200_000, _NARROW, {"keep_projections": False}),
    "dense, a tenth drawn, projections kept": (2_000, 200_000, _NARROW, {}),
}
ON_CPU = [
    "few nodes",
    "narrow",
    "wide embeddings",
    "small tables",
    "half precision",
    "smallest form",
    "large",
    "rows projected",
]
ON_CPU += [
    "no average",
    "drawn edges, computed again",
    "dense, 16 drawn",
    "dense and narrow",
    "dense, a tenth drawn",
]
PHASES = ["step", "evaluation", "inference"]
TOLERANCE = 0.1  # of the plan
BESIDE_TENSORS = ("libraries", "process", "graph, split and filters", "drawing of edges")
# CUDA's own, measured here on the CPU, take nothing on the way
KERNELS = {"cuda": ChunkedKernels(1024), "cpu": FusedKernels(2_048)}
NODE_KERNELS = {"cuda": NodeKernels(), "cpu": CpuNodeKernels()}


@pytest.fixture(scope="module")
def live_and_planned():
    """`live_and_planned(case, device)`: {phase: (bytes of live tensors at the worst moment, bytes
    in the plan)}, measured on the CPU.
    """
    return functools.cache(measure)


def measure(case, device="cuda"):
    num_nodes, num_facts, values, fields = CASES[case]
    graph, config = graph_of_size(num_nodes, num_facts), RunConfig.from_flat(values)
    form = dataclasses.replace(StepForm.of(config), **fields)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "edge_kernels", lambda _: KERNELS[device])
        for module in (layer, layer_pass):
            patch.setattr(module, "node_kernels", lambda _: NODE_KERNELS[device])
        patch.setattr(memory_moments, "_READING_FACTOR", 1)  # Arrow's memory
        patch.setattr(memory_moments, "_GAPS", 0.0)
        planned_rows = sampled_softmax.rows_at_a_time(device)
        patch.setattr(sampled_softmax, "rows_at_a_time", lambda _: planned_rows)
        live = live_peaks(graph, config, form, device, patch)
        plan = plan_of_form(graph, config, limited(80 << 30, device), form)
    planned = {
        phase: plan.phases[phase] - sum(plan.parts.get(part, 0) for part in BESIDE_TENSORS)
        for phase in live
    }
    planned["inference"] += plan.parts.get("drawing of edges", 0)  # nothing is drawn there
    return {phase: (n, planned[phase]) for phase, n in live.items()}


def live_peaks(graph, config, form, device, patch):
    """Of a run's phases as they follow one another: a step after another, validation; then the
    embeddings, in a program of their own, and their evaluation in another.
    """
    split = split_facts(graph, config.split)
    if device == "cuda":  # an accelerator's average lies in host memory
        config = dataclasses.replace(
            config, optimizer=dataclasses.replace(config.optimizer, average_decay=0.0)
        )
    trainee = build_trainee(config, graph, split, torch.device("cpu"), form)
    trainee.model.train()
    facts, index = sample_facts(split.of(VAL), config.stopping.num_val_edges, 0), FactIndex(graph)
    batch = trainee.batches.draw(0, 0)
    train_step(trainee, batch)
    parameters = list(trainee.model.parameters())
    peaks = {}
    source = trainee.batches.step_messages
    drawn = source.on_device(batch.messages)
    if device == "cuda":  # what the recorded step was given, beside what it is given now
        fixed = {
            id(t)
            for t in tensors_in(
                [
                    trainee.messages,
                    source.sampling.layout if isinstance(source, DrawnEdges) else None,
                ]
            )
        }
        beside = [t.clone() for t in tensors_in(step_inputs(trainee, batch)) if id(t) not in fixed]
    else:  # the next batch, drawn meanwhile
        beside = [trainee.messages, trainee.batches.draw(0, 1).micro_batches]
    average = trainee.average.tensors if trainee.average else {}
    standing = [
        average,
        parameters,
        [p.grad for p in parameters],
        trainee.optimizer.state,
        drawn,
        batch.micro_batches,
        beside,
    ]
    live = LiveBytes(standing)
    del standing  # with it the gradients of the step before
    with live:
        train_step(trainee, batch)
        peaks["step"] = live.peak
        del batch, drawn, beside, average, source
        # where each step draws its edges, all of them come for the evaluation
        live.add(trainee.messages)
        live.peak = live.now
        evaluate_val(trainee, facts, index)
        peaks["evaluation"] = live.peak
    encoder, messages = trainee.model.encoder, training_message_graph(graph, split)
    decoder = trainee.model.decoder
    del trainee, parameters
    encoder.zero_grad()
    with LiveBytes([list(encoder.parameters()), messages]) as live:
        if device == "cuda":  # edges are sorted and cut in host memory
            patch.setattr(EdgeList, "sorted_by_target", live.elsewhere(EdgeList.sorted_by_target))
            patch.setattr(
                embeddings,
                "edges_into",
                lambda *args: live.add(part := live.elsewhere(edges_into)(*args)) or part,
            )
        vectors = infer_layerwise(encoder, messages, config.execution.node_batch_size)
    peaks["inference"] = live.peak
    with LiveBytes([vectors, decoder.relation]) as live:
        rank_facts(vectors, decoder, split.of(TEST), index)
    return peaks | {"evaluation": max(peaks["evaluation"], live.peak)}


# One of each kind of graph, step and way to keep what the backward pass needs; the rest is slow.
_FAST = {
    "cuda": ("few nodes", "contrastive loss", "four layers computed again", "dense, a tenth drawn"),
    "cpu": (
        "few nodes",
        "no average",
        "rows projected",
        "dense and narrow",
        "dense, a tenth drawn",
    ),
}


_MEASURED = [
    pytest.param(case, device, marks=() if case in _FAST[device] else pytest.mark.slow)
    for device, cases in (("cuda", CASES), ("cpu", ON_CPU))
    for case in cases
]


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(("case", "device"), _MEASURED)
def test_the_plan_agrees_with_the_tensors_that_live(live_and_planned, case, device, phase):
    live, planned = live_and_planned(case, device)[phase]
    assert abs(planned / live - 1) < TOLERANCE, (
        f"planned {planned / 1e6:.1f} MB, live {live / 1e6:.1f} MB: {planned / live - 1:+.1%}"
    )


@pytest.mark.parametrize("k", [4, 16, 64])
def test_drawn_edges_are_counted_as_they_are(k):
    """Before the split, from degrees; and what each draw brings to the device, beside what stays
    there.
    """
    graph, config = graph_of_size(3_000, 60_000), RunConfig.from_flat({"num_neighbors": k})
    plan = plan_of_form(graph, config, limited(80 << 30, "mps"), StepForm.of(config))
    drawn = (
        build_trainee(config, graph, split_facts(graph, config.split), torch.device("cpu"))
        .batches.draw(0, 0)
        .messages
    )
    assert plan.parts["message graph"] == pytest.approx(
        sum(t.nbytes for t in tensors_in(drawn)) - drawn.fact.nbytes, rel=0.15
    )


@pytest.mark.parametrize("size", [(3_000, 20_000), (20_000, 200_000)])
def test_standing_parts_are_counted_as_they_are(size):
    graph, config = graph_of_size(*size), RunConfig()
    parts = plan_of_form(graph, config, GPU, StepForm.of(config)).parts
    parameters = sum(p.nbytes for p in HGTModel(graph, config.model).parameters())
    assert parts["weights and Adam"] == pytest.approx(3 * parameters, rel=0.001)
    messages = sum(
        t.nbytes
        for t in tensors_in(training_message_graph(graph, split_facts(graph, config.split)))
    )
    assert parts["message graph"] == pytest.approx(messages, rel=0.1)


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
