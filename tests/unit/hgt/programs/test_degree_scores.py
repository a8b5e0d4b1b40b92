"""The degree baseline: scores are degrees, and they rank better than chance."""

from pathlib import Path

import pytest
import torch

from hgt.device.memory_use import DeviceMemory
from hgt.evaluation.fact_index import FactIndex
from hgt.evaluation.ranking import rank_facts
from hgt.graph.split import TEST, TRAIN
from hgt.model.decoders import DistMult
from hgt.programs import baselines
from hgt.programs.degree_scores import DegreeScores, training_degrees
from hgt.run.folder import RunFolder
from hgt.run.opened import OpenRun
from tests.unit.hgt.programs.test_baselines import CPU


def test_a_candidates_degree_score_is_its_number_of_training_facts_on_that_side(graph, split):
    degrees = training_degrees(graph, split)
    expected = torch.zeros_like(degrees)
    for head, relation, tail in split.of(TRAIN).T.tolist():
        ends = (
            [(head, tail), (tail, head)]
            if graph.edge_types[relation] in graph.symmetric
            else [(head, tail)]
        )
        for h, t in ends:
            expected[t, 2 * relation] += 1
            expected[h, 2 * relation + 1] += 1
    assert torch.equal(degrees, expected)
    decoder = DegreeScores()
    for relation in (0, 3, len(graph.edge_types) - 1):
        assert torch.equal(
            decoder.tail_query(degrees[:4], relation) @ degrees.T,
            degrees[:, 2 * relation].expand(4, -1),
        )
        assert torch.equal(
            decoder.head_query(degrees[:4], relation) @ degrees.T,
            degrees[:, 2 * relation + 1].expand(4, -1),
        )


def test_degrees_rank_better_than_random_vectors_and_these_like_chance(graph, split, config):
    run = OpenRun(RunFolder(Path()), config, graph, split, None, CPU, DeviceMemory("cpu", {}))
    names, index = ("degree", "random"), FactIndex(graph)
    degree, random = (baselines._baseline(name, run, index, 0.0).mrr for name in names)
    nothing = DistMult(len(graph.edge_types), 1)
    chance = rank_facts(
        torch.zeros(graph.total_nodes, 1), nothing, split.of(TEST), FactIndex(graph)
    ).typed.chance_mrr
    assert degree["typed"] > 1.5 * chance
    assert random["typed"] == pytest.approx(chance, rel=0.6)
    assert set(degree) == set(random) >= {"typed", "all nodes"}
