"""Draws the batches of a run. Any one can be drawn again from (seed, epoch, batch).

In: the training facts. Out: `Batch`es of the same shapes. An epoch supervises every training fact
exactly once, a batch at most `edge_sample_size` facts of each edge type. Nothing here runs on the
device: random numbers and look-ups stay on the CPU.
"""

from __future__ import annotations

import numpy as np
import torch

from hgt.config import RunConfig
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.mirrors import mirror_facts
from hgt.graph.split import TRAIN, EdgeSplit
from hgt.messages.step_messages import AllEdges, StepMessages, no_messages
from hgt.seeds import Stream, generator
from hgt.training.batch import Batch, MicroBatch
from hgt.training.batch_sizes import num_batches_per_epoch, other_sizes, pool_sizes
from hgt.training.contrast import ContrastDraw, contrast_source
from hgt.training.deal import RelationDeal
from hgt.training.layout import build_layout, no_negatives
from hgt.training.negatives import Pool
from hgt.training.zero_shot import Siblings


class Batches:
    """All batches of a run. `layout` and `num_batches` are fixed; `draw` is a pure function."""

    def __init__(
        self,
        graph: KnowledgeGraph,
        split: EdgeSplit,
        config: RunConfig,
        accumulation_steps: int | None = None,
        step_messages: StepMessages | None = None,
        pins: bool = False,
    ):
        """Lays out the batches of a run.

        accumulation_steps: micro-batches of a batch; the configuration's when not given.
        step_messages: where a batch's message edges come from. No messages when not given.
        pins: whether micro-batches are drawn into pinned memory.
        """
        self.pins = pins
        self.seed = config.split.seed
        self.step_messages = step_messages or AllEdges(no_messages(graph))
        self.num_parts = accumulation_steps or config.batches.accumulation_steps
        self.facts = split.of(TRAIN).numpy()
        self.num_train = self.facts.shape[1]
        counts = np.bincount(self.facts[1], minlength=len(graph.edge_types))
        self.num_batches = num_batches_per_epoch(int(counts.max()), config)
        relations = [
            RelationDeal(graph, self.facts, number, self.num_batches, self.num_parts)
            for number in np.flatnonzero(counts).tolist()
        ]
        self.relations = sorted(relations, key=lambda r: graph.node_types.index(r.tail_type))
        used = {t for r in self.relations for t in (r.head_type, r.tail_type)}
        self.pools = pool_sizes(graph.num_nodes, used, config.losses.num_negatives)
        self.others = other_sizes(self.pools, config.losses.num_other_negatives)
        self.num_nodes, self.offsets = graph.num_nodes, graph.offsets
        self.contrast = contrast_source(graph, split, config)
        self.edge_dropout = config.model.edge_dropout
        self.siblings = Siblings(graph, self.facts, split.holdout)
        self.mirror = mirror_facts(graph, self.facts)
        self._lay_out(config.losses.softmax_correction)

    def _lay_out(self, softmax_correction: float) -> None:
        contrast = None
        if self.contrast is not None:
            anchors_of_part = -(-self.contrast.num_anchors // self.num_parts)
            contrast = (anchors_of_part, self.contrast.pool_size)
        self.layout = build_layout(
            self.relations, self.num_nodes, self.pools, self.others, contrast, softmax_correction
        )
        self._relation, self._head_order = self.layout.relation_of_fact, self.layout.head_order
        tails, heads = (
            [getattr(r, end) for r in self.relations] for end in ("tail_type", "head_type")
        )
        self._no_tail = no_negatives(self.layout, tails, self.others)
        self._no_head = no_negatives(self.layout, heads, self.others)

    def draw(self, epoch: int, batch: int) -> Batch:
        """The batch at this position; the same for every call."""
        rng = generator(self.seed, Stream.BATCH, epoch, batch)
        pools = {t: Pool(rng, self.num_nodes[t], n) for t, n in self.pools.items()}
        contrast = None if self.contrast is None else self.contrast.draw(rng, self.num_parts)
        fact, known = self._dealt(epoch, batch, pools)
        num_supervised = max(int((fact >= 0).sum()), 1)  # fewer facts than batches leave some empty
        pool_nodes = np.concatenate([pool.nodes + self.offsets[t] for t, pool in pools.items()])
        parts = [
            self._part(i, pool_nodes, fact[i], (known[0][i], known[1][i]), num_supervised, contrast)
            for i in range(self.num_parts)
        ]
        supervised = np.where(fact < 0, self.num_train, fact).ravel()
        return Batch(
            supervised=torch.from_numpy(supervised),
            silent=torch.from_numpy(self._silent(supervised, epoch, batch)),
            micro_batches=[part.pinned() for part in parts] if self.pins else parts,
            number=epoch * self.num_batches + batch,
            messages=self.step_messages.draw(self.seed, epoch, batch),
        )

    def _dealt(
        self, epoch: int, batch: int, pools: dict[str, Pool]
    ) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """The facts of all parts, and the filters of their tails and heads.

        Returns [parts, num_facts], and twice [parts, num_facts, width].
        """
        fact = np.full((self.num_parts, self.layout.num_facts), -1)
        tail_known, head_known = (
            np.repeat(never[None], self.num_parts, 0) for never in (self._no_tail, self._no_head)
        )
        for relation, rows in zip(self.relations, self.layout.relations, strict=True):
            dealt = relation.draw(self.seed, epoch, batch, pools)
            pairs = (
                (fact, dealt.fact),
                (tail_known, dealt.tail_known),
                (head_known, dealt.head_known),
            )
            for whole, part in pairs:
                by_part = part.reshape(self.num_parts, relation.part_size, *part.shape[1:])
                whole[(slice(None), rows.facts, *(slice(n) for n in part.shape[1:]))] = by_part
        return fact, (tail_known, head_known)

    def _silent(self, supervised: np.ndarray, epoch: int, batch: int) -> np.ndarray:
        """Numbers of the facts whose messages are masked, see `Batch`."""
        mirrors = self.mirror[supervised] if len(self.mirror) else supervised[:0]
        siblings = self.siblings.of(supervised)
        return np.concatenate([supervised, siblings, mirrors, self._dropped(epoch, batch)])

    def _dropped(self, epoch: int, batch: int) -> np.ndarray:
        """Facts whose messages a step leaves out at random (DropEdge, Rong et al. 2020).

        A head that has read one neighbour alone learns to do without it. By fact, so that it is the
        same on every device and in every form of the step.
        """
        if not self.edge_dropout:
            return np.zeros(0, dtype=np.int64)
        rng = generator(self.seed, Stream.EDGE_DROPOUT, epoch, batch)
        return np.flatnonzero(rng.random(self.num_train, dtype=np.float32) < self.edge_dropout)

    def _part(
        self,
        i: int,
        pool_nodes: np.ndarray,
        fact: np.ndarray,
        known: tuple[np.ndarray, np.ndarray],
        num_supervised: int,
        contrast: ContrastDraw | None,
    ) -> MicroBatch:
        ends = self.facts[:, np.maximum(fact, 0)]
        nodes = [pool_nodes, ends[0], ends[2]]
        anchor_weight, anchor_known = np.zeros(0), np.zeros((0, 0), dtype=bool)
        if contrast is not None:
            size = len(contrast.anchor) // self.num_parts
            part = slice(i * size, (i + 1) * size)
            nodes += [contrast.anchor[part], contrast.positive[part], contrast.pool]
            anchor_weight, anchor_known = contrast.weight[part], contrast.known[part]
        return MicroBatch(
            torch.from_numpy(np.concatenate(nodes).astype(np.int32)),
            torch.from_numpy(((fact >= 0) / num_supervised).astype(np.float32)),
            torch.from_numpy(self._relation),
            torch.from_numpy(self._head_order),
            torch.from_numpy(known[0]),
            torch.from_numpy(known[1]),
            torch.from_numpy(anchor_weight.astype(np.float32)),
            torch.from_numpy(np.ascontiguousarray(anchor_known)),
        )
