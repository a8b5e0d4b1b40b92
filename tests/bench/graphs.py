"""Synthetic graphs with PrimeKG's types, relations and proportions (Chandak et al. 2023, table 1),
at any size.

Endpoints follow a power law, as in the real graph; facts are distinct, and every node occurs in
one, as in any kg.csv. Most benchmarks begin at the KnowledgeGraph; `write_csv` is for those that
begin at the file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import torch

from hgt.graph.facts import EdgeType
from hgt.graph.knowledge_graph import KnowledgeGraph

PRIMEKG_NODES = {
    "anatomy": 14_035,
    "biological_process": 28_642,
    "cellular_component": 4_176,
    "disease": 17_080,
    "drug": 7_957,
    "effect/phenotype": 15_311,
    "exposure": 818,
    "gene/protein": 27_671,
    "molecular_function": 11_169,
    "pathway": 2_516,
}
# Facts; PrimeKG's file has a row for each direction.
PRIMEKG_FACTS = {
    ("anatomy", "anatomy_protein_present", "gene/protein"): 1_518_203,
    ("drug", "drug_drug", "drug"): 1_336_314,
    ("gene/protein", "protein_protein", "gene/protein"): 321_075,
    ("disease", "disease_phenotype_positive", "effect/phenotype"): 150_317,
    ("biological_process", "bioprocess_protein", "gene/protein"): 144_805,
    ("cellular_component", "cellcomp_protein", "gene/protein"): 83_402,
    ("disease", "disease_protein", "gene/protein"): 80_411,
    ("molecular_function", "molfunc_protein", "gene/protein"): 69_530,
    ("drug", "drug_effect", "effect/phenotype"): 64_784,
    ("biological_process", "bioprocess_bioprocess", "biological_process"): 52_886,
    ("pathway", "pathway_protein", "gene/protein"): 42_646,
    ("disease", "disease_disease", "disease"): 32_194,
    ("drug", "contraindication", "disease"): 30_675,
    ("drug", "drug_protein", "gene/protein"): 25_653,
    ("anatomy", "anatomy_protein_absent", "gene/protein"): 19_887,
    ("effect/phenotype", "phenotype_phenotype", "effect/phenotype"): 18_736,
    ("anatomy", "anatomy_anatomy", "anatomy"): 14_032,
    ("molecular_function", "molfunc_molfunc", "molecular_function"): 13_574,
    ("drug", "indication", "disease"): 9_388,
    ("cellular_component", "cellcomp_cellcomp", "cellular_component"): 4_845,
    ("effect/phenotype", "phenotype_protein", "gene/protein"): 3_330,
    ("drug", "off-label use", "disease"): 2_568,
    ("pathway", "pathway_pathway", "pathway"): 2_535,
    ("exposure", "exposure_disease", "disease"): 2_304,
    ("exposure", "exposure_exposure", "exposure"): 2_070,
    ("exposure", "exposure_bioprocess", "biological_process"): 1_625,
    ("exposure", "exposure_protein", "gene/protein"): 1_212,
    ("disease", "disease_phenotype_negative", "effect/phenotype"): 1_193,
    ("exposure", "exposure_molfunc", "molecular_function"): 45,
    ("exposure", "exposure_cellcomp", "cellular_component"): 10,
}
# 129,375 nodes, 4,050,249 facts: 8.1 M rows
PRIMEKG_SIZE = (sum(PRIMEKG_NODES.values()), sum(PRIMEKG_FACTS.values()))


def primekg_like(
    num_nodes: int, num_facts: int, symmetric: bool = True, seed: int = 0
) -> KnowledgeGraph:
    """PrimeKG's proportions at another size; met to a few per mille (facts are distinct, every
    relation has some).

    Where there are few facts for the nodes, node types with few facts have fewer nodes than their
    share, the others more.
    symmetric: read relations within one type as symmetric, as the product does; else as directed,
        which gives them a reverse
    """
    rng = np.random.default_rng([seed, num_nodes, num_facts])
    facts = _scaled(PRIMEKG_FACTS, num_facts, least=10)
    nodes = _node_counts(num_nodes, facts)
    draws = {t: _PowerLaw(n, rng) for t, n in nodes.items()}
    dealt = _dealt(nodes, facts, rng)
    within = frozenset(e for e in PRIMEKG_FACTS if e[0] == e[2] and symmetric)
    edges = {e: _facts(e, n, draws, dealt[e], e in within, rng) for e, n in facts.items()}
    ids = {t: np.array([f"{i:06d}" for i in range(n)], dtype=object) for t, n in nodes.items()}
    return KnowledgeGraph(ids, ids, edges, within)


def write_csv(graph: KnowledgeGraph, path: Path) -> None:
    """In PrimeKG's twelve columns, each fact in both directions, an edge type at a time."""
    with pa.OSFile(str(path), "wb") as out:
        writer: pyarrow.csv.CSVWriter | None = None
        for edge_type in graph.edge_types:
            for turned in (False, True):
                rows = _rows(graph, edge_type, turned)
                writer = writer or pyarrow.csv.CSVWriter(
                    out, rows.schema, write_options=pyarrow.csv.WriteOptions(quoting_style="needed")
                )
                writer.write_table(rows)
        if writer is not None:
            writer.close()


def _rows(graph: KnowledgeGraph, edge_type: EdgeType, turned: bool) -> pa.Table:
    head_type, relation, tail_type = edge_type
    types = (tail_type, head_type) if turned else (head_type, tail_type)
    pairs = graph.edge_index[edge_type].numpy()[:: -1 if turned else 1]
    columns: dict[str, pa.Array] = {
        "relation": pa.repeat(relation, pairs.shape[1]),
        "display_relation": pa.repeat(relation, pairs.shape[1]),
    }
    for side, node_type, number in zip("xy", types, pairs, strict=True):
        ids, names = (
            pa.array(of[node_type], pa.string()).take(pa.array(number))
            for of in (graph.node_ids, graph.node_names)
        )
        columns[f"{side}_index"] = pa.array(number + graph.offsets[node_type])
        columns[f"{side}_id"] = ids
        columns[f"{side}_type"] = pa.repeat(node_type, len(number))
        columns[f"{side}_name"] = pc.binary_join_element_wise(node_type, names, " ")
        columns[f"{side}_source"] = pa.repeat("source", len(number))
    return pa.table(columns)


def _scaled(counts: dict, total: int, least: int) -> dict:
    factor = total / sum(counts.values())
    return {k: max(least, round(n * factor)) for k, n in counts.items()}


def _places(node_type: str) -> list[tuple[EdgeType, int]]:
    """Where nodes of a type stand: (edge type, 0 for heads or 1 for tails)."""
    return [(e, side) for e in PRIMEKG_FACTS for side in (0, 1) if e[2 * side] == node_type]


def _node_counts(num_nodes: int, facts: dict[EdgeType, int]) -> dict[str, int]:
    """A type has at most half as many nodes as its facts have ends; what is over goes to the types
    with room.
    """
    wanted = _scaled(PRIMEKG_NODES, num_nodes, least=20)
    most = {t: sum(facts[e] for e, _ in _places(t)) // 2 for t in wanted}
    counts = {t: min(n, most[t]) for t, n in wanted.items()}
    over, room = (
        sum(wanted.values()) - sum(counts.values()),
        sum(most.values()) - sum(counts.values()),
    )
    share = min(1.0, over / max(room, 1))
    return {t: n + int(share * (most[t] - n)) for t, n in counts.items()}


def _dealt(
    nodes: dict[str, int], facts: dict[EdgeType, int], rng: np.random.Generator
) -> dict[EdgeType, list[np.ndarray]]:
    """{edge type: [heads, tails]} in which every node stands once, in proportion to the facts."""
    dealt: dict[EdgeType, list[np.ndarray]] = {e: [np.zeros(0, np.int64)] * 2 for e in facts}
    for node_type, n in nodes.items():
        places = _places(node_type)
        ends = np.cumsum([facts[e] for e, _ in places])
        for (e, side), part in zip(
            places, np.split(rng.permutation(n), n * ends[:-1] // ends[-1]), strict=True
        ):
            dealt[e][side] = part
    return dealt


class _PowerLaw:
    """Draws nodes with weight rank^-0.6."""

    def __init__(self, n: int, rng: np.random.Generator):
        self.sums = np.cumsum(rng.permutation(np.arange(1, n + 1) ** -0.6))

    def draw(self, size: int, rng: np.random.Generator) -> np.ndarray:
        return np.searchsorted(self.sums, rng.random(size) * self.sums[-1])


def _facts(
    edge_type: tuple,
    wanted: int,
    draws: dict,
    dealt: list[np.ndarray],
    symmetric: bool,
    rng: np.random.Generator,
) -> torch.Tensor:
    """[2, wanted] distinct pairs without self-loops, a symmetric pair once with the smaller number
    first.

    dealt: heads and tails that must occur, each with a drawn node at the other end
    """
    head_type, _, tail_type = edge_type
    num_heads, num_tails = (len(draws[t].sums) for t in (head_type, tail_type))

    def keys_of(head: np.ndarray, tail: np.ndarray) -> np.ndarray:
        if head_type == tail_type:
            tail = np.where(head == tail, (tail + 1) % num_tails, tail)
        if symmetric:
            head, tail = np.minimum(head, tail), np.maximum(head, tail)
        return np.unique(head * num_tails + tail)

    def draw(num_head: int, num_tail: int) -> tuple[np.ndarray, np.ndarray]:
        return draws[head_type].draw(num_head, rng), draws[tail_type].draw(num_tail, rng)

    (heads, tails), (head, tail) = dealt, draw(len(dealt[1]), len(dealt[0]))
    kept = keys_of(np.concatenate([heads, head]), np.concatenate([tail, tails]))
    missing = max(0, min(wanted, num_heads * num_tails // 4) - len(kept))
    further = np.zeros(0, dtype=np.int64)
    while len(further) < missing:
        size = 2 * (missing - len(further)) + 16
        further = np.setdiff1d(np.concatenate([further, keys_of(*draw(size, size))]), kept)
    keys = np.sort(np.concatenate([kept, rng.choice(further, missing, replace=False)]))
    return torch.from_numpy(np.stack([keys // num_tails, keys % num_tails]))
