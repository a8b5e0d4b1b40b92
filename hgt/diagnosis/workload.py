"""The graphs and parameters that two devices are compared on.

In: sizes and a seed. Out: a `KnowledgeGraph` of random facts. Knows no device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hgt.config import RunConfig
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.seeds import Stream, generator


@dataclass(frozen=True)
class Workload:
    """The sizes and parameters of a comparison. There are more than 32,767 genes, because from
    there on MPS's products are wrong on M1 and M2 (pytorch 177116).

    first, other: numbers of genes, diseases and drugs of the two graphs.
    parameters: parameters that differ from a run's defaults.
    """

    first: tuple[int, int, int] = (34_000, 3_000, 1_500)
    other: tuple[int, int, int] = (36_500, 2_400, 2_000)
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def config(self) -> RunConfig:
        # No clipping: torch's norm of a large float32 tensor is off by 5e-4 on the CPU, and would
        # scale every gradient.
        return RunConfig.from_flat(
            {"max_grad_norm": 1e9, "contrastive_weight": 0.5} | dict(self.parameters)
        )


def synthetic_graph(num_genes: int, num_diseases: int, num_drugs: int, seed: int) -> KnowledgeGraph:
    """A graph of random facts. Every gene has an edge to another gene, so one relation has all
    genes on both sides. Some diseases and drugs are hubs.
    """
    rng = generator(seed, Stream.EXAMINED_GRAPH)
    sizes = {"gene/protein": num_genes, "disease": num_diseases, "drug": num_drugs}
    ids = {name: np.arange(n).astype(str).astype(object) for name, n in sizes.items()}

    def uneven(n: int, size: int) -> np.ndarray:
        return np.asarray((n * rng.random(size) ** 3).astype(np.int64))

    diseases = rng.integers(num_diseases, size=num_genes // 3)
    # ten diseases share 40 genes: some are alike
    partners = (diseases // 10 * 40 + rng.integers(40, size=len(diseases))) % num_genes
    pairs = {
        ("gene/protein", "protein_protein", "gene/protein"): (
            np.arange(num_genes),
            rng.permutation(num_genes),
        ),
        ("disease", "disease_protein", "gene/protein"): (diseases, partners),
        ("drug", "drug_protein", "gene/protein"): (
            rng.integers(num_drugs, size=num_genes // 4),
            uneven(num_genes, num_genes // 4),
        ),
        ("drug", "indication", "disease"): (
            uneven(num_drugs, 3 * num_drugs),
            rng.integers(num_diseases, size=3 * num_drugs),
        ),
        ("drug", "contraindication", "disease"): (
            rng.integers(num_drugs, size=num_drugs),
            uneven(num_diseases, num_drugs),
        ),
    }
    symmetric = next(iter(pairs))
    edges = {e: _distinct(*ends, unordered=e == symmetric) for e, ends in pairs.items()}
    return KnowledgeGraph(ids, ids, edges, frozenset([symmetric]))


def _distinct(head: np.ndarray, tail: np.ndarray, unordered: bool) -> Tensor:
    pairs = np.stack([head, tail])
    if unordered:
        pairs = np.sort(pairs[:, head != tail], axis=0)
    return torch.from_numpy(np.unique(pairs, axis=1))
