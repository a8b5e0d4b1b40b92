"""A synthetic graph in PrimeKG's form, to try out the product, and for benchmarks at large sizes.

In: sizes and a seed. Out: a file. Nodes have communities and power-law propensities, and most facts
connect nodes of one community. As in PrimeKG, each fact has a row in both directions, and an
integer id means different nodes in different types.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from hgt.errors import InputError
from hgt.output_file import claim_output, output_written_whole

# Shares of the nodes, roughly PrimeKG's.
_NODE_TYPES = {
    "gene/protein": (0.26, "NCBI"),
    "biological_process": (0.20, "GO"),
    "disease": (0.16, "MONDO"),
    "effect/phenotype": (0.11, "HPO"),
    "drug": (0.09, "DrugBank"),
    "molecular_function": (0.06, "GO"),
    "anatomy": (0.05, "UBERON"),
    "cellular_component": (0.03, "GO"),
    "pathway": (0.02, "REACTOME"),
    "exposure": (0.02, "CTD"),
}
# (relation, display relation, head type, tail type, share of the facts)
_RELATIONS = (
    ("protein_protein", "ppi", "gene/protein", "gene/protein", 0.14),
    ("disease_protein", "associated with", "disease", "gene/protein", 0.12),
    ("drug_protein", "target", "drug", "gene/protein", 0.08),
    ("pathway_protein", "interacts with", "pathway", "gene/protein", 0.05),
    ("bioprocess_protein", "interacts with", "biological_process", "gene/protein", 0.11),
    ("molfunc_protein", "interacts with", "molecular_function", "gene/protein", 0.07),
    ("cellcomp_protein", "interacts with", "cellular_component", "gene/protein", 0.06),
    ("anatomy_protein_present", "expression present", "anatomy", "gene/protein", 0.10),
    ("disease_phenotype_positive", "phenotype present", "disease", "effect/phenotype", 0.08),
    ("drug_effect", "side effect", "drug", "effect/phenotype", 0.06),
    ("indication", "indication", "drug", "disease", 0.03),
    ("contraindication", "contraindication", "drug", "disease", 0.03),
    ("drug_drug", "synergistic interaction", "drug", "drug", 0.03),
    ("exposure_disease", "linked to", "exposure", "disease", 0.02),
    ("bioprocess_bioprocess", "parent-child", "biological_process", "biological_process", 0.02),
)
_INSIDE = 0.9  # share of facts within a community


@dataclass(frozen=True)
class _Nodes:
    start: int  # x_index of the type's first node
    community: np.ndarray
    propensity: np.ndarray

    @property
    def num(self) -> int:
        return len(self.community)


def write_demo_graph(
    path: Path,
    num_nodes: int,
    num_facts: int,
    num_communities: int,
    seed: int,
    overwrite: bool = False,
) -> int:
    """Write the graph as .csv, .csv.gz or .parquet. Returns the number of rows, two per fact.

    Raises InputError for another suffix, for a file that exists (unless `overwrite`), for a path
    that cannot be written, and for sizes without such a graph.
    """
    if not path.name.endswith((".csv", ".csv.gz", ".parquet")):
        raise InputError(f"{path}: the name must end in .csv, .csv.gz or .parquet.")
    place = claim_output(path, overwrite=overwrite)
    table = pa.Table.from_pandas(
        demo_rows(num_nodes, num_facts, num_communities, seed), preserve_index=False
    )
    try:
        with output_written_whole(place) as new:
            if path.name.endswith(".parquet"):
                pyarrow.parquet.write_table(table, new)
                return table.num_rows
            with (
                pa.CompressedOutputStream(str(new), "gzip")
                if path.name.endswith(".gz")
                else pa.OSFile(str(new), "wb")
            ) as out:
                pyarrow.csv.write_csv(table, out, pyarrow.csv.WriteOptions(quoting_style="needed"))
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({str(error).splitlines()[0]}). Choose another place or"
            " name."
        ) from error
    return table.num_rows


def demo_rows(num_nodes: int, num_facts: int, num_communities: int, seed: int) -> pd.DataFrame:
    """The rows in PrimeKG's twelve columns, each fact in both directions. Both sizes are exact
    within a tenth.
    """
    _refuse_sizes(num_nodes, num_facts, num_communities, seed)
    rng = np.random.default_rng(seed)
    nodes, start = {}, 0
    for node_type, (share, _) in _NODE_TYPES.items():
        n = max(round(share * num_nodes), 4)
        nodes[node_type] = _Nodes(
            start, rng.integers(num_communities, size=n), 0.2 + rng.pareto(1.5, n)
        )
        start += n
    met = {t: np.zeros(n.num, dtype=bool) for t, n in nodes.items()}
    head_types = {head_type for _, _, head_type, _, _ in _RELATIONS}
    facts_left, share_left = num_facts, sum(share for *_, share in _RELATIONS)
    parts = []
    for relation, display, head_type, tail_type, share in _RELATIONS:
        heads, tails = nodes[head_type], nodes[tail_type]
        # later relations correct a surplus or a lack of facts
        num = max(round(share / share_left * facts_left), 2)
        # everyone gets a fact
        lonely = _partners(rng, heads, tails, np.flatnonzero(~met[head_type]))
        if tail_type not in head_types:
            lonely = np.concatenate(
                [lonely, _partners(rng, tails, heads, np.flatnonzero(~met[tail_type]))[::-1]],
                axis=1,
            )
        pairs = _pairs(rng, heads, tails, num, head_type == tail_type, lonely)
        facts_left, share_left = facts_left - pairs.shape[1], share_left - share
        met[head_type][pairs[0]] = True
        met[tail_type][pairs[1]] = True
        parts.append(_rows(relation, display, head_type, tail_type, pairs, nodes))
        parts.append(_rows(relation, display, tail_type, head_type, pairs[::-1], nodes))
    if abs(facts_left) > num_facts // 10:
        raise InputError(
            f"{num_nodes} nodes in {num_communities} communities hold about"
            f" {num_facts - facts_left} facts, not {num_facts}. Ask for more nodes or for fewer"
            " facts."
        )
    return pd.concat(parts, ignore_index=True)


def _refuse_sizes(num_nodes: int, num_facts: int, num_communities: int, seed: int) -> None:
    if not 200 <= num_nodes <= 10_000_000:
        raise InputError(f"A demo graph has between 200 and 10,000,000 nodes, not {num_nodes}.")
    most = min(num_nodes**2 // 20, 200_000_000)
    if not num_nodes <= num_facts <= most:
        raise InputError(
            f"A demo graph of {num_nodes} nodes has between {num_nodes} and {most} facts, not"
            f" {num_facts}."
        )
    if not 2 <= num_communities <= num_nodes // 10:
        raise InputError(
            f"A demo graph of {num_nodes} nodes has between 2 and {num_nodes // 10} communities,"
            f" not {num_communities}."
        )
    if not 0 <= seed < 2**31:
        raise InputError(f"The seed must be between 0 and {2**31 - 1:,}, not {seed}.")


def _pairs(
    rng: np.random.Generator,
    heads: _Nodes,
    tails: _Nodes,
    num: int,
    same_type: bool,
    given: np.ndarray,
) -> np.ndarray:
    """[2, about num] distinct pairs, with the given ones among them.

    A head is drawn by propensity, then a tail by propensity, mostly from the head's community.
    """
    pairs = _distinct(given, tails.num, same_type)
    num = min(num, heads.num * tails.num // (8 if same_type else 4))
    for _ in range(8):  # repeated pairs count once, so some are drawn again
        if pairs.shape[1] >= num:
            break
        head = rng.choice(heads.num, num, p=heads.propensity / heads.propensity.sum())
        new = _distinct(_partners(rng, heads, tails, head), tails.num, same_type)
        new = new[:, ~np.isin(_keys(new, tails.num), _keys(pairs, tails.num), assume_unique=True)]
        pairs = np.concatenate(
            [pairs, rng.permutation(new, axis=1)[:, : num - pairs.shape[1]]], axis=1
        )
    return _distinct(pairs, tails.num, same_type)


def _keys(pairs: np.ndarray, num_tails: int) -> np.ndarray:
    return np.asarray(pairs[0] * num_tails + pairs[1])


def _distinct(pairs: np.ndarray, num_tails: int, same_type: bool) -> np.ndarray:
    """Each pair once. Within one type there are no self-loops and no opposite directions."""
    if same_type:
        pairs = np.sort(pairs[:, pairs[0] != pairs[1]], axis=0)
    keys = np.unique(_keys(pairs, num_tails))
    return np.stack([keys // num_tails, keys % num_tails])


def _partners(
    rng: np.random.Generator, heads: _Nodes, tails: _Nodes, head: np.ndarray
) -> np.ndarray:
    anywhere = np.cumsum(tails.propensity) / tails.propensity.sum()
    tail = np.searchsorted(anywhere, rng.random(len(head)))
    inside = rng.random(len(head)) < _INSIDE
    for community in np.unique(heads.community[head]):
        members = np.flatnonzero(tails.community == community)
        rows = np.flatnonzero(inside & (heads.community[head] == community))
        if len(members) and len(rows):
            weight = tails.propensity[members]
            tail[rows] = members[
                np.searchsorted(np.cumsum(weight) / weight.sum(), rng.random(len(rows)))
            ]
    return np.stack([head, np.minimum(tail, tails.num - 1)])


def _rows(
    relation: str,
    display: str,
    x_type: str,
    y_type: str,
    pairs: np.ndarray,
    nodes: dict[str, _Nodes],
) -> pd.DataFrame:
    columns: dict[str, object] = {"relation": relation, "display_relation": display}
    for side, node_type, number in (("x", x_type, pairs[0]), ("y", y_type, pairs[1])):
        text = pd.Series(number + 1).astype(str)
        columns[f"{side}_index"] = number + nodes[node_type].start
        columns[f"{side}_id"] = text
        columns[f"{side}_type"] = node_type
        columns[f"{side}_name"] = node_type + " " + text
        columns[f"{side}_source"] = _NODE_TYPES[node_type][1]
    return pd.DataFrame(columns)
