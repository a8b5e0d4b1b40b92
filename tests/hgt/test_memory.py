"""The plan grows with what is planned, and what cannot fit is refused with both figures and never at the embeddings' expense."""

import dataclasses

import numpy as np
import pytest
import torch

from hgt.batches import Batches
from hgt.config import RunConfig
from hgt.device import DeviceProbe, probe_device
from hgt.errors import InputError
from hgt.graph import KnowledgeGraph
from hgt.memory import MemoryPlan, plan_memory, refuse_what_cannot_fit
from hgt.model import HGTModel

PROBE = DeviceProbe("mps", "a Mac", 8 << 30, "made for this test", torch.__version__, "arm64")


def sized(num_drugs, num_facts, num_relations=1):
    """A graph of which only the counts matter."""
    ids = {"drug": np.arange(num_drugs).astype(str).astype(object), "gene": np.array(["g"], dtype=object)}
    index = torch.zeros(2, 1, dtype=torch.long).expand(2, num_facts)
    return KnowledgeGraph(ids, ids, {("drug", f"r{i}", "gene"): index for i in range(num_relations)})


def required(graph, probe=PROBE, **values):
    return plan_memory(graph, RunConfig.from_flat(values), probe).required_bytes


def test_the_plan_grows_with_the_graph_and_the_model():
    small = sized(20_000, 40_000)  # so large that the training step is what takes most
    base = required(small)
    assert required(sized(30_000, 40_000)) > base, "nodes"
    assert required(sized(20_000, 80_000)) > base, "facts"
    assert required(sized(20_000, 40_000, num_relations=2)) > base, "relations"
    for values in (
        {"embedding_dim": 1024}, {"hidden_dim": 512}, {"num_layers": 3}, {"edge_sample_size": 10_000, "min_batches_per_epoch": 1},
        {"num_negatives": 512}, {"accumulation_steps": 1},
    ):  # fmt: skip
        assert required(small, **values) > base, values


def test_more_micro_batches_and_smaller_samples_shrink_the_plan():
    graph = sized(20_000, 200_000)
    assert required(graph, accumulation_steps=16) < required(graph, accumulation_steps=4)
    assert required(graph, edge_sample_size=2_000) < required(graph, edge_sample_size=8_000)


def test_a_batch_is_planned_as_it_is_drawn(graph, split, make_config):
    """A small edge type is spread over as many batches as the largest needs: it must not be planned at full size."""
    config = make_config(edge_sample_size=10, min_batches_per_epoch=1, accumulation_steps=1)
    batches = Batches(graph, split, config)
    phases = plan_memory(graph, config, PROBE).phases
    rows = sum(batches.layout.sections) - sum(batches.layout.sections[s] for s in dataclasses.astuple(batches.layout.contrast))
    scores = 8 * batches.layout.num_facts * config.train.num_negatives
    exact = (6 * rows * config.model.embedding_dim + scores) * 4
    assert exact <= phases["decoder, one micro-batch"] < 1.6 * exact


def test_parameters_are_counted_as_they_are(graph, config):
    phase = plan_memory(graph, config, PROBE).phases["weights, gradients and Adam"]
    held = 4 * sum(p.numel() * p.element_size() for p in HGTModel(graph, config.model).parameters())
    assert held * 0.85 < phase < held * 1.15


def test_required_covers_every_phase_that_lives_at_once(graph, config):
    plan = plan_memory(graph, config, PROBE)
    standing = plan.phases["weights, gradients and Adam"] + plan.phases["message graph"]
    assert plan.required_bytes >= standing + max(plan.phases["evaluation"], plan.phases["layer-wise inference"])
    assert plan.required_bytes >= standing + plan.phases["encoder, forward to backward"] + plan.phases["decoder, one micro-batch"]
    assert plan.limit_bytes == PROBE.limit_bytes


def test_only_the_cpu_pays_for_the_process(graph, config):
    on_cpu = plan_memory(graph, config, dataclasses.replace(PROBE, type="cpu"))
    assert on_cpu.phases["process"] > plan_memory(graph, config, PROBE).phases["process"] == 0


def test_a_refusal_names_both_figures_and_never_the_embedding_dim():
    graph = sized(2_000, 40_000)
    plan = plan_memory(graph, RunConfig(), dataclasses.replace(PROBE, limit_bytes=1_000_000))
    with pytest.raises(InputError) as caught:
        refuse_what_cannot_fit(plan)
    message = str(caught.value)
    assert f"{plan.required_bytes:,} bytes" in message
    assert "1,000,000 available" in message
    assert "embedding_dim" not in message
    assert "accumulation_steps" in message
    refuse_what_cannot_fit(plan_memory(graph, RunConfig(), PROBE))


def test_the_limit_itself_still_fits():
    plan = MemoryPlan("cpu", 100, {}, 100)
    refuse_what_cannot_fit(plan)
    with pytest.raises(InputError):
        refuse_what_cannot_fit(dataclasses.replace(plan, required_bytes=101))


def test_the_plan_for_people_and_for_the_file(graph, config):
    plan = plan_memory(graph, config, probe_device("cpu"))
    text = plan.table()
    assert all(name in text for name in plan.phases)
    assert f"{plan.required_bytes / 2**20:,.0f} MiB  at the peak" in text
    assert MemoryPlan(**plan.as_dict()) == plan


def test_primekgs_size_is_planned_from_counts_alone():
    """4 million facts on an index of one element: only counts are looked at. The prototype took 11 GB (FACTS.md 3)."""
    plan = plan_memory(sized(130_000, 4_000_000), RunConfig(), PROBE)
    assert 4 << 30 < plan.required_bytes < 16 << 30
