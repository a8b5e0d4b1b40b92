"""All figures of a table of embeddings, and its verdict.

In: embeddings and their graph. Out: a `ValidationReport`. Facts are scored on the given device.
Geometry and neighbourhoods are measured on the CPU in float64.
"""

from __future__ import annotations

import torch

from hgt.config import RunConfig
from hgt.embeddings.table import Embeddings
from hgt.evaluation.edge_classification import ClassificationReport, classify_facts
from hgt.evaluation.fact_index import FactIndex
from hgt.evaluation.geometry import measure_geometry
from hgt.evaluation.neighbourhoods import measure_neighbourhoods
from hgt.evaluation.ranking import RankingReport, rank_facts
from hgt.evaluation.validation import Measured, ValidationReport, validate
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.split import TEST, EdgeSplit


def report_on(
    embeddings: Embeddings,
    graph: KnowledgeGraph,
    split: EdgeSplit,
    config: RunConfig,
    device: torch.device,
) -> ValidationReport:
    """Measure the embeddings and judge them.

    embeddings: rows in the graph's global order.
    device: the device that scores facts.
    """
    vectors, seed = embeddings.vectors, config.split.seed
    geometry = measure_geometry(vectors, embeddings.nodes["node_type"].to_numpy(dtype=str), seed)
    neighbourhoods = measure_neighbourhoods(
        vectors, graph, split, config.losses.contrastive_node_type, seed
    )
    test, index = split.of(TEST), FactIndex(graph)
    ranking: RankingReport | None = None
    classification: ClassificationReport | None = None
    if test.shape[1]:
        decoder, there = embeddings.decoder(graph.edge_types).to(device), vectors.to(device)
        ranking = rank_facts(there, decoder, test, index)
        classification = classify_facts(there, decoder, test, index, seed)
    return validate(Measured(geometry, neighbourhoods, ranking, classification), config.validation)
