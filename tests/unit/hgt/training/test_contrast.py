"""Anchors, positives and pools of the contrastive loss."""

import torch

from hgt.graph.split import TRAIN, split_facts
from hgt.training.batches import Batches


def test_contrastive_rows_equal_brute_force(graph, split, config):
    """A positive reaches the threshold.

    The pool's nodes are marked where they do, or are the anchor itself.
    """
    neighbours = {n: set() for n in range(graph.total_nodes)}
    for h, _, t in split.of(TRAIN).T.tolist():
        neighbours[h].add(t)
        neighbours[t].add(h)

    def similarity(a, b):
        return len(neighbours[a] & neighbours[b]) / max(len(neighbours[a] | neighbours[b]), 1)

    batches = Batches(graph, split, config)
    threshold, contrast = config.losses.similarity_threshold, batches.layout.contrast
    disease = graph.type_range("disease")
    for micro in batches.draw(0, 0).micro_batches:
        sections = micro.nodes.split(batches.layout.sections)
        anchors, positives, pool = (
            sections[s].tolist() for s in (contrast.anchor, contrast.positive, contrast.pool)
        )
        assert all(disease.start <= n < disease.stop for n in pool)
        for i in torch.nonzero(micro.anchor_weight).squeeze(1).tolist():
            a = anchors[i]
            assert disease.start <= a < disease.stop
            assert a != positives[i]
            assert similarity(a, positives[i]) >= threshold
            assert micro.anchor_known[i].tolist() == [
                a == n or similarity(a, n) >= threshold for n in pool
            ]


def test_alike_nodes_of_a_hub_never_repel_each_other(make_graph, make_config):
    """100 diseases with the same two genes: each has more partners than are kept as positives."""
    rows = [("disease", f"d{i}", "assoc", "gene", g) for i in range(100) for g in ("g0", "g1")]
    graph = make_graph(rows)
    config = make_config(accumulation_steps=1)
    split = split_facts(graph, config.split)
    batches = Batches(graph, split, config)
    degree = torch.bincount(split.of(TRAIN)[0], minlength=graph.total_nodes)
    (micro,) = batches.draw(0, 0).micro_batches
    sections = micro.nodes.split(batches.layout.sections)
    whole_a, whole_p = (
        degree[sections[s]] == 2
        for s in (batches.layout.contrast.anchor, batches.layout.contrast.pool)
    )
    assert whole_p.sum() > 70
    assert micro.anchor_known[whole_a][:, whole_p].all()
