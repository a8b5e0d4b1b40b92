"""The leakage audit of a split: does any held-out fact also train, in another form?

In: a graph and its `EdgeSplit`. Out: an `Audit`, or an error. It does not know how the split was
made, and looks at every fact. A graph can have one statement in several forms: repeated,
mirrored, reversed, or implied by a symmetric relation. All of them must be in one part
(Toutanova and Chen 2015). It sorts once, which takes seconds for millions of facts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hgt.errors import HgtError, InputError
from hgt.graph.facts import edge_type_name
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.split import TEST, TRAIN, VAL, EdgeSplit

_SIDES = {TRAIN: "training", VAL: "validation", TEST: "test"}
_DUPLICATE, _SYMMETRIC, _MIRROR, _REVERSED = (
    "the same fact",
    "the same fact of a symmetric relation",
    "its mirror",
    "its reverse",
)
# Two relations can state the same about a pair of nodes. When this share of one relation's held-out
# pairs trains as the other, its figures say little. No split can prevent it (WN18, FB15k).
_SAME_PAIRS = 0.8
_WORST = 5  # edge types named in a warning


@dataclass(frozen=True)
class Audit:
    """A split without leaks.

    num_facts: {part: number of facts}.
    num_edge_types: number of edge types.
    zero_shot: the held-out nodes of a holdout split, in words; empty for a random split.
    twins: sentences about edge types whose held-out pairs nearly all train under another relation.
        People have to judge these.
    """

    num_facts: dict[int, int]
    num_edge_types: int
    zero_shot: str
    twins: tuple[str, ...]

    def __str__(self) -> str:
        counts = ", ".join(f"{n:,} {_SIDES[part]}" for part, n in self.num_facts.items())
        line = (
            f"leakage audit: {sum(self.num_facts.values()):,} facts of {self.num_edge_types} edge"
            f" types ({counts}): none is on two sides"
        )
        return f"{line}, neither repeated, mirrored nor reversed{self.zero_shot}"


def audit_split(graph: KnowledgeGraph, split: EdgeSplit, path: Path | None = None) -> Audit:
    """Look for facts that leak from one part to another.

    path: the file of the split; None for a new split.

    Raises InputError for leaks in a split from a file, HgtError (a defect of ours) for leaks in a
    new one. Both messages have counts and an example.
    """
    head, relation, tail = split.facts.numpy()
    part = split.part.numpy()
    key = _statement(graph, head, relation, tail)
    problems = [
        *_on_two_sides(graph, split, key),
        *_held_out_nodes_in_training(graph, split),
    ]
    if problems:
        what = (
            f"{path or 'the new split'}: held-out facts leak into another side."
            f" {' '.join(problems)}"
        )
        if path is not None:
            raise InputError(
                f"{what} The file was changed, or written by another version: start the run anew."
            )
        raise HgtError(
            f"{what} No figure on it could be trusted. This is a defect of the split: report it,"
            " with the graph's table."
        )
    counts = np.bincount(part, minlength=3).tolist()
    return Audit(
        dict(enumerate(counts)),
        len(graph.edge_types),
        _zero_shot(split),
        tuple(_twins(graph, split)),
    )


def _statement(
    graph: KnowledgeGraph, head: np.ndarray, relation: np.ndarray, tail: np.ndarray
) -> np.ndarray:
    """[num_facts] int64. Facts of one relation between the same two nodes have the same number, in
    any direction and edge type.
    """
    place = {e: i for i, e in enumerate(graph.edge_types)}
    canonical = np.array(
        [min(i, place.get((t, r, h), i)) for i, (h, r, t) in enumerate(graph.edge_types)],
        dtype=np.int64,
    )
    return np.asarray(canonical[relation] * graph.total_nodes**2 + _pair(graph, head, tail))


def _pair(graph: KnowledgeGraph, head: np.ndarray, tail: np.ndarray) -> np.ndarray:
    return np.asarray(np.minimum(head, tail) * graph.total_nodes + np.maximum(head, tail))


def _on_two_sides(graph: KnowledgeGraph, split: EdgeSplit, key: np.ndarray) -> list[str]:
    """One sentence for each form of a statement that is in two parts."""
    part = split.part.numpy().astype(np.int64)
    # sorted by statement, then side: a change of side within a statement is a leak
    both = np.sort(key * 3 + part)
    statement = both // 3
    leaking = np.unique(statement[1:][(statement[1:] == statement[:-1]) & (both[1:] != both[:-1])])
    if not len(leaking):
        return []
    facts = np.flatnonzero(np.isin(key, leaking))
    facts = facts[np.lexsort((part[facts], key[facts]))]
    first = np.concatenate([[True], key[facts][1:] != key[facts][:-1]])
    # the statement's fact that trains, or else is validated
    seen = facts[np.flatnonzero(first)[np.cumsum(first) - 1]]
    other = part[facts] != part[seen]
    return _told(graph, split, facts[other], seen[other])


def _told(graph: KnowledgeGraph, split: EdgeSplit, held: np.ndarray, seen: np.ndarray) -> list[str]:
    """The sentences about facts that state the same in two parts.

    held, seen: [n] numbers of these facts.
    """
    head, relation, tail = split.facts.numpy()
    symmetric = np.array([e in graph.symmetric for e in graph.edge_types])[relation[held]]
    turned = (head[held] != head[seen]) | (tail[held] != tail[seen])
    same_type = relation[held] == relation[seen]
    form = np.select(
        [~same_type, symmetric & turned, turned],
        [_REVERSED, _SYMMETRIC, _MIRROR],
        default=_DUPLICATE,
    )
    sentences = []
    for name in np.unique(form).tolist():
        where = np.flatnonzero(form == name)
        h, s = int(held[where[0]]), int(seen[where[0]])
        sides = _SIDES[int(split.part[h])], _SIDES[int(split.part[s])]
        sentences.append(
            f"{len(where):,} fact(s) have {name} on another side, such as {_fact(graph, split, h)}"
            f" ({sides[0]}) and {_fact(graph, split, s)} ({sides[1]})."
        )
    return sentences


def _held_out_nodes_in_training(graph: KnowledgeGraph, split: EdgeSplit) -> list[str]:
    """A sentence about held-out facts that are in another part than their held-out node. Empty
    where there are none.
    """
    holdout = split.holdout
    if holdout is None:
        return []
    if split.node_part is None:
        asked_for = f"--split {holdout.node_type}-holdout"
        return [f"The split names no held-out nodes, which {asked_for} has."]
    relations = torch.tensor([graph.edge_types.index(e) for e in holdout.edge_types])
    concerned = torch.isin(split.facts[1], relations)
    due = torch.maximum(split.node_part[split.facts[0]], split.node_part[split.facts[2]])
    wrong = torch.nonzero(concerned & (due != TRAIN) & (split.part != due)).squeeze(1)
    if not len(wrong):
        return []
    example = int(wrong[0])
    return [
        f"{len(wrong):,} fact(s) of held-out nodes are on another side than their node, such as"
        f" {_fact(graph, split, example)}, which is in {_SIDES[int(split.part[example])]} while its"
        f" {holdout.node_type} is held out for {_SIDES[int(due[example])]}."
    ]


def _zero_shot(split: EdgeSplit) -> str:
    if split.node_part is None or split.holdout is None:
        return ""
    val, test = (int((split.node_part == part).sum()) for part in (VAL, TEST))
    relations = " or ".join(sorted({relation for _, relation, _ in split.holdout.edge_types}))
    return (
        f"; zero-shot: {val:,} validation and {test:,} test nodes of type"
        f" {split.holdout.node_type}, of which no {relations} trains"
    )


def _twins(graph: KnowledgeGraph, split: EdgeSplit) -> list[str]:
    """One sentence about the edge types that nearly share their held-out pairs with another
    relation: at least `_SAME_PAIRS` of them train there. Empty where there are none.
    """
    found = sorted(_shared_pairs(graph, split), key=lambda twin: -twin[0])
    if not found:
        return []
    names = [edge_type_name(e) for e in graph.edge_types]
    advice = "Take one of the two relations out of the file if they state the same."
    if len(found) == 1:
        share, own, other = found[0]
        return [
            f"{share:.0%} of the held-out facts of {names[own]} have their pair of nodes in"
            f" training as {names[other]}: its figures say little. {advice}"
        ]
    worst = ", ".join(
        f"{names[own]} as {names[other]} ({share:.0%})" for share, own, other in found[:_WORST]
    )
    more = f"; the {_WORST} worst are" if len(found) > _WORST else ":"
    return [
        f"In {len(found):,} cases {_SAME_PAIRS:.0%} or more of an edge type's held-out pairs of"
        f" nodes are in training as another edge type, so that its figures say little{more}"
        f" {worst}. {advice}"
    ]


def _shared_pairs(graph: KnowledgeGraph, split: EdgeSplit) -> list[tuple[float, int, int]]:
    """(share, edge type, other edge type): of the pairs that the first holds out, the share that
    trains as the other. Only shares from `_SAME_PAIRS` up.
    """
    head, relation, tail = split.facts.numpy()
    held, num_types = split.part.numpy() != TRAIN, len(graph.edge_types)
    wanted, pair = np.unique(_pair(graph, head, tail), return_inverse=True)
    own = np.unique(relation[held] * len(wanted) + pair[held])  # (edge type, pair), each once
    near = ~held & np.isin(pair, pair[held])
    other = np.unique(pair[near] * num_types + relation[near])  # (pair, edge type), each once
    start, stop = (
        np.searchsorted(other // num_types, own % len(wanted), side) for side in ("left", "right")
    )
    matches = stop - start
    places = np.repeat(start - (np.cumsum(matches) - matches), matches) + np.arange(matches.sum())
    both, count = np.unique(
        np.repeat(own // len(wanted), matches) * num_types + other[places] % num_types,
        return_counts=True,
    )
    share = count / np.bincount(own // len(wanted), minlength=num_types)[both // num_types]
    return [
        (float(s), int(b) // num_types, int(b) % num_types)
        for s, b in zip(share, both, strict=True)
        if s >= _SAME_PAIRS and b // num_types != b % num_types
    ]


def _fact(graph: KnowledgeGraph, split: EdgeSplit, number: int) -> str:
    """(type, id) - relation - (type, id)"""
    head, relation, tail = split.facts[:, number].tolist()
    head_type, name, tail_type = graph.edge_types[relation]
    ends = [
        f"({t}, {graph.node_ids[t][n - graph.offsets[t]]})"
        for t, n in ((head_type, head), (tail_type, tail))
    ]
    return f"{ends[0]} - {name} - {ends[1]}"
