"""From rows to facts: what becomes one fact, what is dropped and counted, and the graph's ways out
and back.
"""

import json

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import HeteroData
from torch_geometric.transforms import ToUndirected

from hgt.config import GraphConfig
from hgt.errors import InputError
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.reading.edge_table import read_edge_table
from tests.conftest import DATA
from tests.unit.hgt.graph.rows import PPI, TREATS, graph_of, mirror, told
from tests.unit.hgt.graph.test_subgraph import num_components

QUICK = settings(max_examples=40, deadline=None, derandomize=True)


TYPES, RELATIONS = ("drug", "disease", "gene"), ("r", "s")
ROW = st.tuples(
    st.sampled_from(TYPES),
    st.integers(0, 4),
    st.sampled_from(RELATIONS),
    st.sampled_from(TYPES),
    st.integers(0, 4),
)


@QUICK
@given(
    rows=st.lists(ROW, min_size=1, max_size=60),
    include=st.none() | st.sets(st.sampled_from(TYPES), min_size=1),
    limit=st.none() | st.integers(1, 10),
    override=st.sampled_from(["symmetric_relations", "directed_relations"]),
    overridden=st.sets(st.sampled_from(RELATIONS)),
)
def test_every_row_is_a_fact_or_is_counted(rows, include, limit, override, overridden):
    there = {r[0] for r in rows} | {r[3] for r in rows}
    kept_types = tuple(sorted(include & there)) if include else None
    names = tuple(sorted(overridden & {r[2] for r in rows}))
    try:
        graph = graph_of(
            rows, include_node_types=kept_types or None, limit_nodes=limit, **{override: names}
        )
    except InputError as error:
        ways = {(x, r, y) for x, _, r, y, _ in rows}
        one_way = set(names) - {r for x, r, y in ways if (y, r, x) in ways}
        refused = override == "symmetric_relations" and one_way
        assert ("has no rows within one node type" if refused else "Nothing is left") in str(error)  # noqa: PT017
        return
    assert len(rows) == graph.total_facts + sum(graph.dropped.as_dict().values())
    given_rows = {(x, str(a), r, y, str(b)) for x, a, r, y, b in rows}
    facts = told(graph)
    assert len(facts) == graph.total_facts
    assert facts <= given_rows | {mirror(r) for r in given_rows}
    if limit is None:
        lost = {r for r in given_rows - facts if mirror(r) not in facts}
        assert all(
            (r[0], r[1]) == (r[3], r[4]) or (kept_types and not {r[0], r[3]} <= set(kept_types))
            for r in lost
        )
    else:
        assert graph.total_nodes <= limit
    assert {n for f in facts for n in ((f[0], f[1]), (f[3], f[4]))} == {
        (t, i) for t, ids in graph.node_ids.items() for i in ids
    }


@QUICK
@given(rows=st.lists(ROW.filter(lambda r: r[0] <= r[3]), min_size=2, max_size=40), data=st.data())
def test_row_order_does_not_matter_where_each_relation_has_one_orientation(rows, data):
    rows.append(("drug", 0, "r", "gene", 0))
    assert graph_of(data.draw(st.permutations(rows))).hash == graph_of(rows).hash


def test_include_node_types_keeps_rows_between_them_only():
    rows = [*TREATS, *PPI, ("drug", 0, "targets", "gene", 3)]
    graph = graph_of(rows, include_node_types=("drug", "disease"))
    assert graph.node_types == ["disease", "drug"]
    assert (graph.total_facts, graph.dropped.filtered_type) == (5, 21)
    with pytest.raises(
        InputError, match=r"Unknown node type\(s\) dru; the file has disease, drug, gene"
    ):
        graph_of(rows, include_node_types=("dru", "gene"))
    with pytest.raises(
        InputError, match="include_node_types is empty; the file has disease, drug, gene"
    ):
        graph_of(rows, include_node_types=())
    with pytest.raises(
        InputError,
        match=(
            r"Nothing is left of 5 rows: 5 have a node type outside .*\. Include more node types\.$"
        ),
    ):
        graph_of(TREATS, include_node_types=("drug",))
    with pytest.raises(
        InputError,
        match=r"1 connect a node with itself\. Give a file with edges between different nodes\.$",
    ):
        graph_of([("drug", 1, "r", "drug", 1)])


def test_the_hash_tells_graphs_apart():
    rows = [*TREATS, *PPI, *map(mirror, PPI)]
    others = [
        rows[1:],
        [*rows, ("drug", 9, "treats", "disease", 0)],
        [("drug", 0, "treats", "disease", 1), *rows[1:]],
        [(x, a, "cures" if r == "treats" else r, y, b) for x, a, r, y, b in rows],
        [(x, f"{a}x", r, y, b) if x == "drug" else (x, a, r, y, b) for x, a, r, y, b in rows],
    ]
    hashes = [graph_of(r).hash for r in (rows, *others)] + [
        graph_of(rows, directed_relations=("ppi",)).hash
    ]
    assert len(set(hashes)) == 7


def test_global_numbers_follow_the_types():
    graph = graph_of([*TREATS, *PPI])
    assert graph.offsets == {"disease": 0, "drug": 3, "gene": 8}
    table = graph.node_table()
    assert len(table) == graph.total_nodes == 29
    for edge_type in graph.edge_types:
        for head, tail in graph.global_facts(edge_type).T.tolist():
            x, y = table.iloc[head], table.iloc[tail]
            assert (x.node_type, x.node_id, edge_type[1], y.node_type, y.node_id) in told(graph)
    assert table.iloc[graph.type_range("gene")]["node_id"].tolist() == sorted(
        str(i) for i in range(21)
    )


def whole_graph():
    return graph_of(
        [
            *TREATS,
            *map(mirror, TREATS),
            *PPI,
            *map(mirror, PPI),
            ("gene", 1, "regulates", "gene", 2),
            TREATS[0],
        ]
    )


def assert_same(one, other):
    assert one.hash == other.hash
    assert (one.node_types, one.edge_types, one.symmetric) == (
        other.node_types,
        other.edge_types,
        other.symmetric,
    )
    for t in one.node_types:
        assert one.node_ids[t].tolist() == other.node_ids[t].tolist()
        assert one.node_names[t].tolist() == other.node_names[t].tolist()
    for e in one.edge_types:
        assert torch.equal(one.edge_index[e], other.edge_index[e])


def test_hetero_data_round_trip():
    graph = whole_graph()
    data = graph.to_hetero_data()
    data.validate(raise_on_error=True)
    assert data["gene"].num_nodes == 21
    assert_same(KnowledgeGraph.from_hetero_data(data), graph)


def test_foreign_hetero_data_gets_ids_and_directed_edge_types():
    data = HeteroData()
    data["user"].x = torch.randn(3, 2)
    data["item"].num_nodes = 2
    data["item"].node_id = torch.tensor([70, 80])
    data["user", "buys", "item"].edge_index = torch.tensor([[0, 2], [1, 0]], dtype=torch.int32)
    graph = KnowledgeGraph.from_hetero_data(data)
    assert told(graph) == {("user", "0", "buys", "item", "80"), ("user", "2", "buys", "item", "70")}
    assert graph.symmetric == frozenset()
    assert_same(KnowledgeGraph.from_hetero_data(graph.to_hetero_data()), graph)


def test_hetero_data_that_is_no_graph_of_facts_is_refused():
    data = HeteroData()
    data["user"].other = 1
    with pytest.raises(InputError, match="'user' has no num_nodes"):
        KnowledgeGraph.from_hetero_data(data)
    data = whole_graph().to_hetero_data()
    with pytest.raises(InputError, match="disease - rev_treats - drug has the name of the reverse"):
        KnowledgeGraph.from_hetero_data(ToUndirected()(data))
    data = whole_graph().to_hetero_data()
    data["drug", "treats", "disease"].edge_index[1, 0] = 3
    with pytest.raises(InputError, match="outside its 5 heads and 3 tails"):
        KnowledgeGraph.from_hetero_data(data)
    del data["drug", "treats", "disease"].edge_index
    data["drug", "treats", "disease"].adj = 1
    with pytest.raises(InputError, match="no edge_index"):
        KnowledgeGraph.from_hetero_data(data)


def test_a_relation_with_the_name_of_a_reverse_is_refused():
    """Its facts and the reverses of the other relation's would be the same message edges."""
    with pytest.raises(
        InputError,
        match="disease - rev_treats - drug has the name of the reverse of drug - treats - disease",
    ):
        graph_of([*TREATS, ("disease", 1, "rev_treats", "drug", 1)])
    assert graph_of([*TREATS, ("disease", 1, "rev_other", "drug", 1)]).total_facts == 6


def test_save_and_load_round_trip(tmp_path):
    graph = whole_graph()
    graph.save(tmp_path / "graph")
    again = KnowledgeGraph.load(tmp_path / "graph")
    assert_same(again, graph)
    assert again.dropped == graph.dropped
    assert graph.dropped.mirror == 25


def changed_nodes(folder):
    nodes = pd.read_parquet(folder / "nodes.parquet")
    nodes.loc[0, "node_id"] = "other"
    nodes.to_parquet(folder / "nodes.parquet", index=False)


def lost_column(folder):
    pd.read_parquet(folder / "nodes.parquet").drop(columns="node_id").to_parquet(
        folder / "nodes.parquet", index=False
    )


def changed_facts(folder):
    data = bytearray((folder / "facts.safetensors").read_bytes())
    data[-4] ^= 1
    (folder / "facts.safetensors").write_bytes(bytes(data))


def described(folder, **values):
    description = json.loads((folder / "graph.json").read_text())
    (folder / "graph.json").write_text(json.dumps(description | values))


TAMPERING = [
    changed_nodes,
    lost_column,
    changed_facts,
    lambda folder: described(folder, hash="0" * 64),
    lambda folder: described(folder, num_nodes={"gene": 21}),
    lambda folder: described(folder, edge_types=[["drug", "treats", "disease", True]]),
    lambda folder: described(folder, edge_types=3),
    lambda folder: described(folder, dropped_rows={"lost": 1}),
    lambda folder: (folder / "graph.json").write_text("[1]"),
    lambda folder: (folder / "graph.json").write_text("{"),
    lambda folder: (folder / "graph.json").unlink(),
    lambda folder: (folder / "facts.safetensors").write_bytes(b"x" * 20),
    lambda folder: (folder / "nodes.parquet").write_bytes(b"PAR1"),
]


@pytest.mark.parametrize("tamper", TAMPERING)
def test_a_tampered_folder_is_refused(tmp_path, tamper):
    whole_graph().save(tmp_path)
    tamper(tmp_path)
    with pytest.raises(InputError, match="Start the run anew"):
        KnowledgeGraph.load(tmp_path)


def real(name):
    path = DATA / name / "kg.csv.gz"
    if not path.exists():
        pytest.skip(f"{name} is not beside the checkout")
    return read_edge_table(path)


def test_hetionet_medium():
    table = real("hetionet_medium")
    graph = KnowledgeGraph.from_edge_table(table, GraphConfig())
    assert (graph.total_nodes, graph.total_facts, len(graph.edge_types)) == (26_574, 99_676, 24)
    assert graph.symmetric == frozenset()
    assert table.num_rows == graph.total_facts + sum(graph.dropped.as_dict().values())
    sample = KnowledgeGraph.from_edge_table(table, GraphConfig(limit_nodes=500))
    assert sample.total_nodes == 500
    assert len(sample.node_types) >= 8
    assert max(sample.num_nodes.values()) <= 150
    assert num_components(sample) == 1


def test_primekg_sample():
    """Rows drawn from PrimeKG one by one: few have their mirror still."""
    table = real("primekg_sample")
    graph = KnowledgeGraph.from_edge_table(table, GraphConfig())
    assert (graph.total_nodes, graph.total_facts, len(graph.edge_types)) == (6_717, 15_365, 2)
    assert graph.dropped.as_dict() == {
        "mirror": 0,
        "duplicate": 27,
        "self_loop": 0,
        "filtered_type": 0,
        "outside_sample": 0,
    }
    graph = KnowledgeGraph.from_edge_table(
        table, GraphConfig(symmetric_relations=("drug_protein",))
    )
    assert (graph.total_nodes, graph.total_facts, len(graph.edge_types)) == (6_717, 13_106, 1)
    assert graph.dropped.as_dict() == {
        "mirror": 2_259,
        "duplicate": 27,
        "self_loop": 0,
        "filtered_type": 0,
        "outside_sample": 0,
    }
