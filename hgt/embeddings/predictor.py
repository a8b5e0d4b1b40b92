"""Predictions of facts: a node and a relation as the question, ranked nodes as the answer.

In: a table of embeddings and the graph of its training. Out: tables of nodes. Knows no training and
no MLflow.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from hgt.embeddings.table import Embeddings
from hgt.errors import InputError, listed
from hgt.evaluation.fact_index import FactIndex
from hgt.graph.facts import EdgeType
from hgt.graph.knowledge_graph import KnowledgeGraph

REVERSE = "rev_"
COLUMNS = ("rank", "score", "known", "tail_type", "tail_id", "tail_name")


@dataclass(frozen=True)
class Predictor:
    """Answers questions with a table of embeddings.

    embeddings: rows in the graph's global order, with their relations.
    """

    embeddings: Embeddings
    graph: KnowledgeGraph

    @classmethod
    def load(cls, embeddings: Path, graph: Path) -> Predictor:
        """Read `embeddings.parquet`, with its `relations.parquet` beside it, and a graph folder.

        Raises InputError when they do not belong together.
        """
        table, kg = Embeddings.load(embeddings), KnowledgeGraph.load(graph)
        if table.origin.get("graph_hash") != kg.hash:
            raise InputError(
                f"{embeddings}: was not trained on the graph in {graph}. Give the files of one run."
            )
        return cls(table, kg)

    @cached_property
    def _index(self) -> FactIndex:
        return FactIndex(self.graph)

    @torch.no_grad()
    def tails(
        self,
        head: str,
        relation: str,
        k: int = 10,
        head_type: str | None = None,
        include_known: bool = False,
    ) -> pd.DataFrame:
        """The k most likely tails of `head` in `relation`, best first, with the columns `COLUMNS`.

        head: id of a node, or its name where no node has it as id.
        relation: name of a relation. `rev_<relation>` asks for heads instead, for example for the
            drugs of a disease. A relation to several node types gives k tails of each.
        k: number of tails.
        head_type: separates nodes with the same id or name.
        include_known: also return tails whose fact the graph has. The column `known` marks these.

        Scores compare the tails of one relation, and nothing else. Raises InputError for a node or
        relation that the graph lacks, a node that is not unique, or a k below 1.
        """
        if k < 1:
            raise InputError(f"k = {k}: is too small. Give at least 1.")
        node_type, number = self._node(head, head_type)
        return pd.concat(
            [
                self._ranked(number, *asked, k, include_known)
                for asked in self._edge_types(node_type, relation)
            ],
            ignore_index=True,
        )

    def _node(self, given: str, node_type: str | None) -> tuple[str, int]:
        """The node's type, and its number within the type."""
        if node_type is not None and node_type not in self.graph.node_types:
            raise InputError(
                f"head_type {node_type!r}: the graph has no such type. It has"
                f" {listed(self.graph.node_types, most=50)}."
            )
        types = self.graph.node_types if node_type is None else [node_type]
        for columns in (self.graph.node_ids, self.graph.node_names):
            found = [(t, int(n)) for t in types for n in np.flatnonzero(columns[t] == given)]
            if len(found) == 1:
                return found[0]
            if found:
                told = ", ".join(f"{t} {self.graph.node_ids[t][n]}" for t, n in found[:5])
                raise InputError(
                    f"head {given!r}: is the name of {len(found)} nodes ({told}). Give the id and"
                    " head_type of one of them."
                )
        names = list(
            dict.fromkeys(
                n
                for t in types
                for columns in (self.graph.node_ids, self.graph.node_names)
                for n in columns[t]
            )
        )
        alike = difflib.get_close_matches(given, names, 3)
        like = f"; like it are {', '.join(alike)}" if alike else ""
        raise InputError(
            f"head {given!r}: the graph has no node of this id or name{like}. Give one of its"
            " nodes."
        )

    def _edge_types(self, node_type: str, relation: str) -> list[tuple[int, EdgeType, bool]]:
        """(number, edge type, whether its tails are wanted) for each meaning of the relation at a
        node of this type.
        """
        every = list(enumerate(self.graph.edge_types))
        found = [(number, e, True) for number, e in every if e[:2] == (node_type, relation)]
        if not found:  # a symmetric relation x may stand beside one that is called rev_x
            found = [
                (number, e, False)
                for number, e in every
                if (f"{REVERSE}{e[1]}", e[2]) == (relation, node_type)
            ]
        if not found:
            there = {r for h, r, _ in self.graph.edge_types if h == node_type}
            there |= {
                f"{REVERSE}{e[1]}"
                for e in self.graph.edge_types
                if e[2] == node_type and e not in self.graph.symmetric
            }
            raise InputError(
                f"relation {relation!r}: has no nodes of type {node_type}. Such nodes have"
                f" {listed(sorted(there), most=50)}."
            )
        return found

    def _ranked(
        self,
        node: int,
        number: int,
        edge_type: EdgeType,
        forward: bool,
        k: int,
        include_known: bool,
    ) -> pd.DataFrame:
        given_type, wanted_type = (
            (edge_type[0], edge_type[2]) if forward else (edge_type[2], edge_type[0])
        )
        vectors, decoder = self.embeddings.vectors, self.embeddings.decoder(self.graph.edge_types)
        given = vectors[self.graph.offsets[given_type] + node].unsqueeze(0)
        query = decoder.tail_query(given, number) if forward else decoder.head_query(given, number)
        scores = (vectors[self.graph.type_range(wanted_type)] @ query[0]).numpy()
        known = np.zeros(len(scores), dtype=bool)
        known[self._index.known[number][0 if forward else 1][[node]].indices] = True
        candidates = np.arange(len(scores))
        if not include_known:
            candidates = candidates[~known]
        if given_type == wanted_type:
            # the graph has no fact of a node with itself
            candidates = candidates[candidates != node]
        best = candidates[np.argsort(-scores[candidates], kind="stable")[:k]]
        values = (
            *(np.arange(1, len(best) + 1), scores[best], known[best], wanted_type),
            *(self.graph.node_ids[wanted_type][best], self.graph.node_names[wanted_type][best]),
        )
        return pd.DataFrame(dict(zip(COLUMNS, values, strict=True)))
