"""Which facts train, which steer early stopping (val) and which the final figures are computed on (test).

In: a `KnowledgeGraph`. Out: an `EdgeSplit` over its facts in their global order. The unit is the unordered pair within an
edge type, so that a fact, its mirror row and its reverse are always on the same side (FACTS.md 5: the field's commonest leak).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from hgt.config import SplitConfig
from hgt.errors import InputError
from hgt.facts import EdgeType
from hgt.graph import KnowledgeGraph

TRAIN, VAL, TEST = 0, 1, 2


@dataclass(frozen=True)
class EdgeSplit:
    """facts: [3, num_facts] int64 (head, edge type, tail), global node numbers, edge types in the graph's order
    part: [num_facts] TRAIN, VAL or TEST
    unsplit: edge types with too few facts to hold any out; all of theirs train
    """

    facts: Int[Tensor, "3 num_facts"]
    part: UInt8[Tensor, " num_facts"]
    unsplit: tuple[EdgeType, ...]

    def of(self, part: int) -> Int[Tensor, "3 _"]:
        """The facts of one part, in the order of `facts`."""
        return self.facts[:, self.part == part]

    def save(self, path: Path, graph: KnowledgeGraph) -> None:
        safetensors.torch.save_file({"part": self.part}, path, metadata={"graph_hash": graph.hash})

    @classmethod
    def load(cls, path: Path, graph: KnowledgeGraph) -> EdgeSplit:
        """Raises InputError when the split belongs to another graph."""
        try:
            with safetensors.safe_open(path, "pt") as file:
                belongs_to = (file.metadata() or {})["graph_hash"]
                part = file.get_tensor("part")
        except (OSError, KeyError, safetensors.SafetensorError) as error:
            raise InputError(f"{path}: holds no readable split ({error}). Start the run anew.") from error
        if belongs_to != graph.hash:
            raise InputError(f"{path}: was made for graph {belongs_to[:12]}, not for {graph.hash[:12]}. Start the run anew.")
        facts = all_facts(graph)
        if part.shape != facts.shape[1:] or part.dtype != torch.uint8 or part.max() > TEST:
            raise InputError(f"{path}: tells no part for each of {facts.shape[1]:,} facts. Start the run anew.")
        return cls(facts, part, _unsplit(graph, facts, part))


def split_facts(graph: KnowledgeGraph, config: SplitConfig) -> EdgeSplit:
    """Split each edge type by the shares of the configuration, seeded.

    Edge types too small to hold out at least one pair for each of val and test keep all of theirs for training. Edge types
    of one relation in both directions (read as directed) are split together, as pairs.
    """
    facts = all_facts(graph)
    parts = [np.full(n, TRAIN, dtype=np.uint8) for n in graph.num_facts.values()]
    place = {e: i for i, e in enumerate(graph.edge_types)}
    for number, (head, relation, tail) in enumerate(graph.edge_types):
        opposite = place.get((tail, relation, head), number)
        if opposite < number:
            continue  # split with the other direction
        members = [number] if opposite == number else [number, opposite]
        unit, num_units = _units([graph.edge_index[graph.edge_types[m]].numpy() for m in members], within_one_type=head == tail)
        num_val, num_test = int(config.val_fraction * num_units), int(config.test_fraction * num_units)
        if num_val and num_test:
            order = np.random.default_rng([config.seed, number]).permutation(num_units)
            part_of_unit = np.full(num_units, TRAIN, dtype=np.uint8)
            part_of_unit[order[:num_val]] = VAL
            part_of_unit[order[num_val : num_val + num_test]] = TEST
            start = 0
            for m in members:
                stop = start + len(parts[m])
                parts[m] = part_of_unit[unit[start:stop]]
                start = stop
    part = torch.from_numpy(np.concatenate(parts))
    return EdgeSplit(facts, part, _unsplit(graph, facts, part))


def all_facts(graph: KnowledgeGraph) -> Int[Tensor, "3 num_facts"]:
    """Every fact as (head, edge type, tail), edge type by edge type."""
    columns = []
    for number, edge_type in enumerate(graph.edge_types):
        head, tail = graph.global_facts(edge_type)
        columns.append(torch.stack([head, torch.full_like(head, number), tail]))
    return torch.cat(columns, dim=1)


def _units(directions: list[np.ndarray], within_one_type: bool) -> tuple[np.ndarray, int]:
    """The number of each fact's unordered pair, and how many there are.

    directions: [2, n] pairs, and where the relation has a second edge type the other way round, that one's pairs too
    """
    ends = np.concatenate([directions[0], *(pairs[::-1] for pairs in directions[1:])], axis=1)
    if within_one_type:
        ends = np.sort(ends, axis=0)
    distinct, unit = np.unique(ends[0] * (int(ends.max(initial=0)) + 1) + ends[1], return_inverse=True)
    return unit, len(distinct)


def _unsplit(graph: KnowledgeGraph, facts: Tensor, part: Tensor) -> tuple[EdgeType, ...]:
    held_out = torch.bincount(facts[1][part != TRAIN], minlength=len(graph.edge_types))
    return tuple(e for e, n in zip(graph.edge_types, held_out.tolist(), strict=True) if n == 0)
