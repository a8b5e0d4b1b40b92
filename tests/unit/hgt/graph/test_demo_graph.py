"""The demo graph has PrimeKG's form and a structure that can be learned."""

import numpy as np
import pandas as pd
import pytest

from hgt.config import GraphConfig
from hgt.errors import InputError
from hgt.graph import demo_graph
from hgt.graph.demo_graph import demo_rows, write_demo_graph
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.reading.edge_table import read_edge_table

COLUMNS = [
    "relation",
    "display_relation",
    *(f"{side}_{what}" for side in "xy" for what in ("index", "id", "type", "name", "source")),
]


@pytest.fixture(scope="module")
def rows():
    return demo_rows(1_000, 10_000, 10, seed=0)


def nodes_of(rows):
    return rows[["x_type", "x_id"]].drop_duplicates()


def test_it_has_primekg_columns_types_and_relations(rows):
    assert sorted(rows.columns) == sorted(COLUMNS)
    assert not rows.isna().any(axis=None)
    assert rows["x_type"].nunique() == 10
    assert {"drug", "disease", "gene/protein", "pathway", "biological_process"} <= set(
        rows["x_type"]
    )
    assert rows["relation"].nunique() >= 12


def test_every_fact_stands_in_both_directions_and_once_in_each(rows):
    keys = list(
        rows[["x_type", "x_id", "relation", "y_type", "y_id"]].itertuples(index=False, name=None)
    )
    assert len(set(keys)) == len(keys)
    assert {(y, b, r, x, a) for x, a, r, y, b in keys} == set(keys)
    assert not any((x, a) == (y, b) for x, a, _, y, b in keys)


def test_ids_overlap_between_types_and_indices_do_not(rows):
    nodes = rows[["x_type", "x_id", "x_index"]].drop_duplicates()
    ids = nodes.groupby("x_type")["x_id"].agg(set)
    assert all(ids["drug"] & ids[t] for t in ids.index)
    assert nodes["x_index"].is_unique
    assert len(nodes) == len(nodes_of(rows))


def test_degrees_follow_a_power_law(rows):
    degree = rows.groupby(["x_type", "x_id"]).size().to_numpy()
    assert degree.max() > 10 * np.median(degree)
    genes = rows[rows["x_type"] == "gene/protein"].groupby("x_id").size().to_numpy()
    assert genes.max() > 8 * np.median(genes)
    top = np.sort(genes)[::-1][: len(genes) // 10].sum() / genes.sum()
    assert top > 0.3  # a tenth of the genes; 0.1 to 0.15 where degrees are Poisson


def test_facts_stay_inside_communities_far_above_chance(monkeypatch):
    made = []
    real = demo_graph._Nodes
    monkeypatch.setattr(demo_graph, "_Nodes", lambda *args: made.append(real(*args)) or made[-1])
    rows = demo_rows(1_000, 10_000, 10, seed=0)
    community = np.concatenate([nodes.community for nodes in made])
    assert len(np.unique(community)) == 10
    inside = community[rows["x_index"]] == community[rows["y_index"]]
    chance = (np.bincount(community[rows["x_index"]]) / len(rows)) @ (
        np.bincount(community[rows["y_index"]]) / len(rows)
    )
    assert inside.mean() > 4 * chance
    for _, relation in rows.assign(inside=inside).groupby("relation"):
        assert relation["inside"].mean() > 3 * chance


def test_the_communities_show_without_knowing_them(rows):
    """What a model can learn: two neighbours of one node are far more often joined than two random
    nodes.
    """
    num = rows["x_index"].max() + 1
    adjacency = np.zeros((num, num), dtype=np.float32)
    adjacency[rows["x_index"], rows["y_index"]] = 1
    degree = adjacency.sum(1)
    paths = adjacency @ adjacency
    np.fill_diagonal(paths, 0)
    closed = (paths * adjacency).sum() / paths.sum()
    # the same degrees without communities
    expected = np.minimum(np.outer(degree, degree) / degree.sum(), 1)
    by_degree = (expected @ expected * expected).sum() / (expected @ expected).sum()
    assert closed > 1.3 * by_degree


def test_the_seed_decides():
    one, same, other = (demo_rows(300, 1_500, 5, seed=s) for s in (1, 1, 2))
    pd.testing.assert_frame_equal(one, same)
    assert not one.equals(other)


@pytest.mark.parametrize(
    "sizes",
    [
        (200, 200, 2),
        (200, 1_000, 5),
        (200, 1_800, 10),
        (1_000, 1_000, 5),
        (1_000, 10_000, 10),
        (1_000, 30_000, 5),
        (3_000, 20_000, 40),
    ],
)
def test_both_sizes_are_met_within_a_tenth(sizes):
    num_nodes, num_facts, num_communities = sizes
    rows = demo_rows(num_nodes, num_facts, num_communities, seed=3)
    assert len(nodes_of(rows)) == pytest.approx(num_nodes, rel=0.1)
    assert len(rows) / 2 == pytest.approx(num_facts, rel=0.1)
    assert rows["x_type"].nunique() == 10
    assert rows["relation"].nunique() == 15


@pytest.mark.parametrize(
    ("sizes", "what"),
    [
        ((199, 1_000, 5, 0), "between 200 and 10,000,000 nodes, not 199"),
        ((-5, 1_000, 5, 0), "nodes, not -5"),
        ((10**12, 10**13, 5, 0), "nodes, not 1000000000000"),
        ((1_000, 999, 5, 0), "between 1000 and 50000 facts, not 999"),
        ((1_000, 50_001, 5, 0), "facts, not 50001"),
        ((1_000, 5_000, 1, 0), "between 2 and 100 communities, not 1"),
        ((1_000, 5_000, 101, 0), "communities, not 101"),
        ((1_000, 50_000, 100, 0), r"1000 nodes in 100 communities hold about \d+ facts, not 50000"),
        ((1_000, 5_000, 5, -1), "seed must be between 0 and 2,147,483,647, not -1"),
    ],
)
def test_silly_sizes_are_refused(tmp_path, sizes, what):
    with pytest.raises(InputError, match=what):
        write_demo_graph(tmp_path / "kg.csv", *sizes)
    assert list(tmp_path.iterdir()) == []


def test_silly_paths_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"must end in \.csv"):
        write_demo_graph(tmp_path / "kg.txt", 300, 1_500, 5, 0)
    with pytest.raises(InputError, match="its folder does not exist"):
        write_demo_graph(tmp_path / "none" / "kg.csv", 300, 1_500, 5, 0)
    (tmp_path / "kg.csv").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        write_demo_graph(tmp_path / "kg.csv", 300, 1_500, 5, 0)


@pytest.mark.parametrize("name", ["kg.csv", "kg.csv.gz", "kg.parquet"])
def test_a_graph_for_which_there_is_no_room_is_not_there(tmp_path, room, name):
    """`make train` would take half of one as its graph."""
    room(1_000)
    with pytest.raises(InputError, match="cannot be written"):
        write_demo_graph(tmp_path / name, 300, 1_500, 5, 0)
    assert list(tmp_path.iterdir()) == []


def test_all_three_forms_are_read_as_the_same_graph(tmp_path):
    graphs = []
    for name in ("kg.csv", "kg.csv.gz", "kg.parquet"):
        assert write_demo_graph(tmp_path / name, 300, 1_500, 5, 0) == pytest.approx(3_000, rel=0.1)
        graphs.append(
            KnowledgeGraph.from_edge_table(read_edge_table(tmp_path / name), GraphConfig())
        )
    assert len({g.hash for g in graphs}) == 1
    graph = graphs[0]
    assert graph.dropped.mirror == graph.total_facts == pytest.approx(1_500, rel=0.1)
    assert graph.dropped.duplicate == graph.dropped.self_loop == 0
    assert {e[1] for e in graph.symmetric} == {
        "protein_protein",
        "drug_drug",
        "bioprocess_bioprocess",
    }
    assert len(graph.edge_types) == 15
    assert graph.node_names["drug"][0] == "drug 1"
    assert (tmp_path / "kg.csv.gz").read_bytes()[:2] == b"\x1f\x8b"
