"""Planned bytes against the bytes of the tensors that live, moment by moment."""

import dataclasses
import functools

import pytest
import torch

from hgt.config import RunConfig
from hgt.embeddings import inference
from hgt.embeddings.inference import infer_layerwise
from hgt.evaluation.fact_index import FactIndex
from hgt.evaluation.ranking import rank_facts, sample_facts
from hgt.graph.split import TEST, VAL, split_facts
from hgt.kernels.edges import ChunkedKernels, FusedKernels
from hgt.kernels.nodes import CpuNodeKernels, NodeKernels
from hgt.memory import evaluation_moments, moments
from hgt.messages.grouping import EdgeList, edges_into
from hgt.messages.step_messages import DrawnEdges
from hgt.messages.training_messages import training_message_graph
from hgt.model import attention, layer, layer_pass
from hgt.model.hgt_model import HGTModel
from hgt.training import sampled_softmax
from hgt.training.step import step_inputs, train_step
from hgt.training.step_form import StepForm
from hgt.training.trainee import build_trainee
from hgt.training.val_metrics import evaluate_val
from tests.planned import plan_of_form
from tests.unit.hgt.live_bytes import LiveBytes, tensors_in
from tests.unit.hgt.memory.planned_graphs import COMPUTED_AGAIN, GPU, graph_of_size, limited

pytestmark = pytest.mark.usefixtures("unchecked_shapes")


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
NARROW = {
    "hidden_dim": 64,
    "embedding_dim": 64,
    "accumulation_steps": 16,
    "num_val_edges": 500,
    "num_neighbors": 4,
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
        patch.setattr(evaluation_moments, "_READING_FACTOR", 1)  # Arrow's memory
        patch.setattr(moments, "_GAPS", 0.0)
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
                inference,
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
