"""The split: facts for training, for early stopping (validation), and for the final figures (test).

In: a `KnowledgeGraph`. Out: an `EdgeSplit` of its facts in their global order. The unit is the
unordered pair within an edge type. So a fact, its mirror row and its reverse are always in the
same part; the opposite is the field's most common leak.

A holdout split goes by node: all facts of a held-out node with drugs are in one part. So the model
ranks them without any of them in training. Held-out nodes have too few facts for early
stopping, so a share of every other edge type's facts validates as well.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from hgt.config import SplitConfig
from hgt.errors import InputError, quoted
from hgt.graph.facts import EdgeType
from hgt.graph.holdout import Holdout, holdout_of
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.input_file import check_file, read_json
from hgt.seeds import Stream, generator
from hgt.whole_file import written_whole

TRAIN, VAL, TEST = 0, 1, 2
_START_ANEW = "Start the run anew."
_FEWEST_TO_SPLIT = 3  # nodes: the largest fractions hold out one each for val and test


@dataclass(frozen=True)
class EdgeSplit:
    """The part of each fact.

    facts: [3, num_facts] int64: head, edge type, tail. Global node numbers; edge types in the
        graph's order.
    part: [num_facts] TRAIN, VAL or TEST.
    unsplit: edge types without held-out facts. All their facts train.
    node_part: [num_nodes] in a holdout split, the part of each node's held-out facts; TRAIN for
        nodes that are not held out. None for a random split.
    holdout: what a holdout split holds out; None for a random split. It follows from graph and
        configuration, so the file does not have it.
    """

    facts: Int[Tensor, "3 num_facts"]
    part: UInt8[Tensor, " num_facts"]
    unsplit: tuple[EdgeType, ...]
    node_part: UInt8[Tensor, " num_nodes"] | None = None
    holdout: Holdout | None = None

    def of(self, part: int) -> Int[Tensor, "3 _"]:
        """[3, n] the facts of one part, in the order of `facts`."""
        return self.facts[:, self.part == part]

    @property
    def hash(self) -> str:
        """SHA-256 of all parts. Equal splits of one graph have equal hashes."""
        digest = hashlib.sha256(self.part.contiguous().numpy().tobytes())
        if self.node_part is not None:
            digest.update(b"nodes" + self.node_part.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def save(self, path: Path, graph: KnowledgeGraph) -> None:
        """Write the file, and beside it the hashes of graph and split (`split.json`). These show
        when another split's file takes its place.
        """
        tensors = {"part": self.part} | (
            {} if self.node_part is None else {"node_part": self.node_part}
        )
        told = {"graph_hash": graph.hash, "split_hash": self.hash}
        with written_whole(path) as new:
            safetensors.torch.save_file(tensors, new, metadata=told)
        with written_whole(path.with_suffix(".json")) as new:
            new.write_text(json.dumps(told, indent=2) + "\n")

    @classmethod
    def load(cls, path: Path, graph: KnowledgeGraph, config: SplitConfig) -> EdgeSplit:
        """Read a saved split; `config` is that of the run. Raises InputError when it belongs to
        another graph, or when the run began with another split.
        """
        check_file(path, _START_ANEW)
        try:
            with safetensors.safe_open(path, "pt") as file:
                belongs_to = (file.metadata() or {})["graph_hash"]
                part = file.get_tensor("part")
                names = set(file.keys())
                node_part = file.get_tensor("node_part") if "node_part" in names else None
        except (OSError, KeyError, safetensors.SafetensorError) as error:
            raise InputError(
                f"{path}: holds no readable split ({error}). Start the run anew."
            ) from error
        if belongs_to != graph.hash:
            raise InputError(
                f"{path}: was made for graph {belongs_to[:12]}, not for {graph.hash[:12]}. Start"
                " the run anew."
            )
        facts = all_facts(graph)
        if part.shape != facts.shape[1:] or part.dtype != torch.uint8 or part.max() > TEST:
            raise InputError(
                f"{path}: lacks the part of each of {facts.shape[1]:,} facts. Start the run anew."
            )
        if node_part is not None and (
            node_part.shape != (graph.total_nodes,)
            or node_part.dtype != torch.uint8
            or node_part.max() > TEST
        ):
            raise InputError(
                f"{path}: lacks the part of each of {graph.total_nodes:,} nodes. Start the run"
                " anew."
            )
        unsplit = _unsplit(graph, facts, part)
        split = cls(facts, part, unsplit, node_part, holdout_of(graph, config))
        beside = path.with_suffix(".json")
        told = read_json(
            beside,
            dict,
            "Only runs of earlier versions have none, and these cannot be resumed. Start the run"
            " anew.",
        )
        if (told.get("graph_hash"), told.get("split_hash")) != (graph.hash, split.hash):
            began = quoted(told.get("split_hash"))
            raise InputError(
                f"{path}: holds split {split.hash[:16]}, but the run began with another one"
                f" ({beside.name}: {began}). Put that one back, or start a new run."
            )
        return split


def split_facts(graph: KnowledgeGraph, config: SplitConfig) -> EdgeSplit:
    """The seeded split of the configuration.

    Raises InputError for a holdout split of an unknown node type, of a type without enough facts or
    nodes, or that leaves no facts for training or validation.
    """
    holdout = holdout_of(graph, config)
    if holdout is not None:
        return _by_node(graph, config, holdout)
    if config.holdout_relations:
        raise InputError(
            f"holdout_relations {', '.join(config.holdout_relations)} means something for a holdout"
            " split alone. Give --split disease-holdout (or another node type) as well."
        )
    return _by_fact(graph, config)


def _by_fact(graph: KnowledgeGraph, config: SplitConfig) -> EdgeSplit:
    """Split each edge type by the shares of the configuration. An edge type that is too small to
    hold out one pair for each of val and test trains as a whole.
    """
    facts, part = (
        all_facts(graph),
        _random_parts(graph, config.seed, (config.val_fraction, config.test_fraction)),
    )
    return EdgeSplit(facts, part, _unsplit(graph, facts, part))


def _random_parts(
    graph: KnowledgeGraph, seed: int, shares: tuple[float, ...]
) -> UInt8[Tensor, " num_facts"]:
    """The part of each fact, in the order of `all_facts`.

    shares: shares of each edge type, for validation and, if there are two, for the test.

    An edge type that is too small to hold out one pair for each of them trains as a whole. Edge
    types of one relation in both directions (read as directed) are split together, as pairs.
    """
    parts = [np.full(n, TRAIN, dtype=np.uint8) for n in graph.num_facts.values()]
    place = {e: i for i, e in enumerate(graph.edge_types)}
    for number, (head, relation, tail) in enumerate(graph.edge_types):
        opposite = place.get((tail, relation, head), number)
        if opposite < number:
            continue  # split with the other direction
        members = [number] if opposite == number else [number, opposite]
        unit, num_units = _units(
            [graph.edge_index[graph.edge_types[m]].numpy() for m in members],
            within_one_type=head == tail,
        )
        counts = [int(share * num_units) for share in shares]
        if all(counts):
            order = generator(seed, Stream.FACT_SPLIT, number).permutation(num_units)
            part_of_unit = np.full(num_units, TRAIN, dtype=np.uint8)
            for part, units in zip(
                (VAL, TEST), np.split(order[: sum(counts)], np.cumsum(counts)[:-1]), strict=False
            ):
                part_of_unit[units] = part
            start = 0
            for m in members:
                stop = start + len(parts[m])
                parts[m] = part_of_unit[unit[start:stop]]
                start = stop
    return torch.from_numpy(np.concatenate(parts))


def _by_node(graph: KnowledgeGraph, config: SplitConfig, holdout: Holdout) -> EdgeSplit:
    """Hold out a share of a type's nodes with all their facts of the holdout's edge types. Most
    other facts train, and some validate.

    Diseases are held out as in TxGNN's `complex_disease` split (Huang et al. 2024): drawn from
    those with drugs, without any of their drugs, but with their genes and phenotypes. Random facts
    of other edge types serve early stopping as well. The final figures are about held-out nodes
    alone, so the test has no other facts. A fact between two held-out nodes goes with the test
    node.
    """
    facts = all_facts(graph)
    relations = torch.tensor([graph.edge_types.index(e) for e in holdout.edge_types])
    concerned = torch.isin(facts[1], relations)
    nodes = graph.type_range(holdout.node_type)
    ends = torch.unique(facts[::2, concerned])
    candidates = ends[(ends >= nodes.start) & (ends < nodes.stop)]
    num_val, num_test = (
        int(config.val_fraction * len(candidates)),
        int(config.test_fraction * len(candidates)),
    )
    if not (num_val and num_test):
        remedy = (
            "Raise both fractions."
            if len(candidates) >= _FEWEST_TO_SPLIT
            else "Hold out a type with more of them."
        )
        raise InputError(
            f"--split {config.split}: {len(candidates)} nodes of type {holdout.node_type} have"
            f" such facts, too few to hold {config.val_fraction:g} of them out for validation and"
            f" {config.test_fraction:g} for the test. {remedy}"
        )
    order = torch.from_numpy(generator(config.seed, Stream.NODE_SPLIT).permutation(len(candidates)))
    node_part = torch.full((graph.total_nodes,), TRAIN, dtype=torch.uint8)
    node_part[candidates[order[:num_val]]] = VAL
    node_part[candidates[order[num_val : num_val + num_test]]] = TEST
    others = _random_parts(graph, config.seed, (config.val_fraction,))
    part = torch.where(concerned, torch.maximum(node_part[facts[0]], node_part[facts[2]]), others)
    for needed, what in ((TRAIN, "to train on"), (VAL, "for validation")):
        if not (part == needed).any():
            raise InputError(
                f"--split {config.split}: the nodes held out leave no fact {what}, of"
                f" {facts.shape[1]:,}. Change the fractions, the seed or the relations that are"
                " held out."
            )
    return EdgeSplit(facts, part, _unsplit(graph, facts, part), node_part, holdout)


def all_facts(graph: KnowledgeGraph) -> Int[Tensor, "3 num_facts"]:
    """[3, num_facts] every fact as (head, edge type, tail), edge type by edge type."""
    columns = []
    for number, edge_type in enumerate(graph.edge_types):
        head, tail = graph.global_facts(edge_type)
        columns.append(torch.stack([head, torch.full_like(head, number), tail]))
    return torch.cat(columns, dim=1)


def _units(directions: list[np.ndarray], within_one_type: bool) -> tuple[np.ndarray, int]:
    """The number of each fact's unordered pair, and the number of pairs.

    directions: [2, n] pairs of the edge type. Where a second edge type has the opposite direction,
        its pairs follow.
    """
    ends = np.concatenate([directions[0], *(pairs[::-1] for pairs in directions[1:])], axis=1)
    if within_one_type:
        ends = np.sort(ends, axis=0)
    distinct, unit = np.unique(
        ends[0] * (int(ends.max(initial=0)) + 1) + ends[1], return_inverse=True
    )
    return unit, len(distinct)


def _unsplit(graph: KnowledgeGraph, facts: Tensor, part: Tensor) -> tuple[EdgeType, ...]:
    held_out = torch.bincount(facts[1][part != TRAIN], minlength=len(graph.edge_types))
    return tuple(e for e, n in zip(graph.edge_types, held_out.tolist(), strict=True) if n == 0)
