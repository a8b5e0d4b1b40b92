"""A synthetic knowledge graph with PrimeKG's counts: its 10 node types, 30 relations and the rows
of each in kg.csv.

PrimeKG itself could not be had; what a training step does depends on these counts alone. Endpoints
are drawn with hubs.
"""

from __future__ import annotations

import functools

import numpy as np
import torch

from hgt.graph.knowledge_graph import KnowledgeGraph

NUM_NODES = {
    "biological_process": 28_642,
    "gene/protein": 27_671,
    "disease": 17_080,
    "effect/phenotype": 15_311,
    "anatomy": 14_035,
    "molecular_function": 11_169,
    "drug": 7_957,
    "cellular_component": 4_176,
    "pathway": 2_516,
    "exposure": 818,
}
# (head type, relation, tail type): rows, two for each fact
NUM_ROWS = {
    ("anatomy", "anatomy_protein_present", "gene/protein"): 3_036_406,
    ("drug", "drug_drug", "drug"): 2_672_628,
    ("gene/protein", "protein_protein", "gene/protein"): 642_150,
    ("disease", "disease_phenotype_positive", "effect/phenotype"): 300_634,
    ("biological_process", "bioprocess_protein", "gene/protein"): 289_610,
    ("cellular_component", "cellcomp_protein", "gene/protein"): 166_804,
    ("disease", "disease_protein", "gene/protein"): 160_822,
    ("molecular_function", "molfunc_protein", "gene/protein"): 139_060,
    ("drug", "drug_effect", "effect/phenotype"): 129_568,
    ("biological_process", "bioprocess_bioprocess", "biological_process"): 105_772,
    ("pathway", "pathway_protein", "gene/protein"): 85_292,
    ("disease", "disease_disease", "disease"): 64_388,
    ("drug", "contraindication", "disease"): 61_350,
    ("drug", "drug_protein", "gene/protein"): 51_306,
    ("anatomy", "anatomy_protein_absent", "gene/protein"): 39_774,
    ("effect/phenotype", "phenotype_phenotype", "effect/phenotype"): 37_472,
    ("anatomy", "anatomy_anatomy", "anatomy"): 28_064,
    ("molecular_function", "molfunc_molfunc", "molecular_function"): 27_148,
    ("drug", "indication", "disease"): 18_776,
    ("cellular_component", "cellcomp_cellcomp", "cellular_component"): 9_690,
    ("effect/phenotype", "phenotype_protein", "gene/protein"): 6_660,
    ("drug", "off-label use", "disease"): 5_136,
    ("pathway", "pathway_pathway", "pathway"): 5_070,
    ("exposure", "exposure_disease", "disease"): 4_608,
    ("exposure", "exposure_exposure", "exposure"): 4_140,
    ("exposure", "exposure_bioprocess", "biological_process"): 3_250,
    ("exposure", "exposure_protein", "gene/protein"): 2_424,
    ("disease", "disease_phenotype_negative", "effect/phenotype"): 2_386,
    ("exposure", "exposure_molfunc", "molecular_function"): 90,
    ("exposure", "exposure_cellcomp", "cellular_component"): 20,
}
_ISOLATED = "exposure"  # there in any case: where no relation is of its nodes, they get no message


@functools.cache
def primekg_sized(shrink: int = 1, relations: tuple[str, ...] | None = None) -> KnowledgeGraph:
    """The graph, or one with all counts divided by `shrink` and only some of the relations, their
    node types and `_ISOLATED`.

    Relations within one type are symmetric, as PrimeKG's are.
    """
    rng = np.random.default_rng(0)
    types = {
        t
        for e in NUM_ROWS
        if relations is None or e[1] in relations
        for t in (e[0], e[2], _ISOLATED)
    }
    num_nodes = {t: max(n // shrink, 8) for t, n in NUM_NODES.items() if t in types}
    ids = {t: np.array([str(i) for i in range(n)], dtype=object) for t, n in num_nodes.items()}
    wanted = {
        e: max(rows // 2 // shrink, 4)
        for e, rows in NUM_ROWS.items()
        if relations is None or e[1] in relations
    }
    edges = {e: torch.from_numpy(_pairs(rng, num_nodes, e, num)) for e, num in wanted.items()}
    return KnowledgeGraph(ids, ids, edges, frozenset(e for e in edges if e[0] == e[2]))


def _pairs(
    rng: np.random.Generator, num_nodes: dict[str, int], edge_type: tuple[str, str, str], num: int
) -> np.ndarray:
    """[2, num] distinct pairs; within one type the smaller number first, and no self-loops."""
    heads, tails = num_nodes[edge_type[0]], num_nodes[edge_type[2]]
    num = min(num, heads * tails // 8)  # a small graph is denser
    keys = np.zeros(0, dtype=np.int64)
    while len(keys) < num:
        head, tail = (_with_hubs(rng, n, 2 * num) for n in (heads, tails))
        if edge_type[0] == edge_type[2]:
            head, tail = np.minimum(head, tail), np.maximum(head, tail)
            head, tail = head[head < tail], tail[head < tail]
        # np.unique takes ten times as long
        keys = np.sort(np.concatenate([keys, head * tails + tail]))
        keys = keys[np.diff(keys, prepend=-1) > 0]
    keys = np.sort(rng.choice(keys, num, replace=False))
    return np.stack([keys // tails, keys % tails])


def _with_hubs(rng: np.random.Generator, num_nodes: int, num: int) -> np.ndarray:
    """Node 0 is drawn about sqrt(num_nodes) times as often as an average one."""
    return (num_nodes * rng.random(num) ** 2).astype(np.int64)
