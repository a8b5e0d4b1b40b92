"""Drawn message edges: of the graph, capped, every set equally likely, of the same shapes,
repeatable; and what is computed along them.
"""

import dataclasses

import pytest
import torch
from torch_geometric.nn import HGTConv

from hgt.config import RunConfig
from hgt.errors import InputError
from hgt.graph.split import split_facts
from hgt.messages.grouping import edge_list
from hgt.messages.message_graph import MAX_SEGMENT_EDGES, GroupLimits
from hgt.messages.neighbor_sampling import NeighborSampling
from hgt.messages.training_messages import build_message_graph, training_message_graph
from hgt.model.layer import HGTLayer
from tests.bench.graphs import primekg_like
from tests.unit.hgt.live_bytes import tensors_in
from tests.unit.hgt.pairwise import pairwise

CPU = torch.device("cpu")
NUM_NODES = {"drug": 60, "gene": 400, "disease": 30, "lonely": 5}
EDGE_TYPES = [
    ("drug", "treats", "disease"),
    ("disease", "rev_treats", "drug"),
    ("gene", "interacts", "gene"),
    ("disease", "empty", "gene"),
    ("gene", "hub", "disease"),
    ("disease", "rev_hub", "gene"),
    ("lonely", "points_at", "drug"),
]
LIMITS = {
    "few groups": GroupLimits(),
    "many edges": GroupLimits(rows=4_096, edges=300),
    "short tables": GroupLimits(rows=48, edges=10**6),
}


def random_edges(seed=0):
    """A relation without edges, and one in which all 400 genes point at one disease: one row of
    400 edges, and 400 of one.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = {"treats": 300, "rev_treats": 300, "interacts": 3000, "empty": 0, "points_at": 7}
    edges = {}
    for e in EDGE_TYPES:
        if e[1] in sizes:
            pairs = torch.stack(
                [
                    torch.randint(NUM_NODES[end], (sizes[e[1]],), generator=generator)
                    for end in (e[0], e[2])
                ]
            )
            edges[e] = torch.unique(pairs, dim=1)
    everyone, one = torch.arange(400), torch.full((400,), 3)
    edges[EDGE_TYPES[4]], edges[EDGE_TYPES[5]] = (
        torch.stack([everyone, one]),
        torch.stack([one, everyone]),
    )
    return {e: edges[e] for e in EDGE_TYPES}


def by_hand(edges, limits=None):
    facts, at = [], 0
    for index in edges.values():
        facts.append(torch.arange(at, at + index.shape[1]))
        at += index.shape[1]
    return build_message_graph(
        NUM_NODES, EDGE_TYPES, {e: (i[0], i[1]) for e, i in edges.items()}, facts, limits
    )


@pytest.fixture(scope="module")
def drawn_from(graph, split):
    """`drawn_from(name)`: message graphs of several kinds."""
    primekg = primekg_like(2_000, 40_000)
    graphs = {
        "by hand": lambda: by_hand(random_edges()),
        # symmetric relations, and a directed one within a type
        "demo": lambda: training_message_graph(graph, split),
        "primekg": lambda: training_message_graph(primekg, split_facts(primekg, RunConfig().split)),
    }
    return lambda name: graphs[name]()


SIDES = ["by_target", "by_source"]
GRAPHS = ["by hand", "demo", "primekg"]


def rows_of(messages):
    """[E, 4]: relation, source, target and fact of each edge."""
    return torch.stack([*vars(edge_list(messages)).values(), messages.fact.long()], dim=1)


def check_sorted(edges, num_others):
    """What the kernels rely on: segments that cover the edges, short, each of one row,
    ascending.
    """
    length = edges.ptr.diff()
    assert int(edges.ptr[0]) == 0
    assert int(edges.ptr[-1]) == len(edges.row)
    assert int(length.min()) >= 0
    assert int(length.max()) <= MAX_SEGMENT_EDGES
    assert (edges.rows.diff() >= 0).all()
    assert torch.equal(torch.repeat_interleave(edges.rows, length), edges.row.long())
    assert int(edges.other.max()) < num_others


@pytest.mark.parametrize(("name", "k", "limits"), pairwise(GRAPHS, [1, 5, 16, 10**9], [*LIMITS]))
def test_what_is_drawn_is_of_the_graph_and_capped(drawn_from, name, k, limits):
    """min(d, k) distinct edges of the d into a node, for every message edge type.

    Each with its own fact; within the groups' limits.
    """
    messages, limits = drawn_from(name), LIMITS[limits]
    sampling = NeighborSampling(messages, k, limits)
    drawn = sampling.draw(0, 1, 2)
    whole, rows = rows_of(messages), rows_of(drawn)
    assert {*map(tuple, rows.tolist())} <= {*map(tuple, whole.tolist())}
    assert len(torch.unique(rows, dim=0)) == len(rows)
    into, degree = torch.unique(whole[:, [0, 2]], dim=0, return_counts=True)
    into_drawn, drawn_degree = torch.unique(rows[:, [0, 2]], dim=0, return_counts=True)
    assert torch.equal(into_drawn, into)
    assert torch.equal(drawn_degree, degree.clamp(max=k))
    for group in drawn.groups:
        assert len(group.nodes) <= max(limits.rows, 256)
        assert group.edges[1] - group.edges[0] <= max(limits.edges, k)
        check_sorted(
            group.by_target, len(group.nodes) if group.transforms_source else drawn.num_nodes
        )
        check_sorted(
            group.by_source, drawn.num_nodes if group.transforms_source else len(group.nodes)
        )
        order = group.by_source.order.long()
        assert torch.equal(group.by_target.other[order], group.by_source.row)
        assert torch.equal(group.by_target.row[order], group.by_source.other)
        assert len(torch.unique(order)) == len(order)


def shapes_of(messages):
    return [(t.dtype, tuple(t.shape)) for t in tensors_in(messages)]


@pytest.mark.parametrize(("name", "limits", "k"), pairwise(GRAPHS, [*LIMITS], [2, 16]))
def test_all_draws_have_the_same_shapes(drawn_from, name, k, limits):
    sampling = NeighborSampling(drawn_from(name), k, LIMITS[limits])
    draws = [sampling.draw(0, 0, batch) for batch in range(20)]
    assert len({tuple(shapes_of(d)) for d in draws}) == 1
    assert len({tuple(g.edges for g in d.groups) for d in draws}) == 1
    types = [
        {t.dtype for t in tensors_in(getattr(g, side))}
        for m in (drawn_from(name), draws[0])
        for g in m.groups
        for side in SIDES
    ]
    assert all(t == types[0] for t in types), "as the graph with all edges"
    if k == 2:
        segments = {sum(int((g.by_source.ptr.diff() > 0).sum()) for g in d.groups) for d in draws}
        assert len(segments) > 1, (
            "the number of segments that hold edges differs: it is empty ones that keep the shapes"
        )


def test_what_stays_the_same_is_not_copied(drawn_from):
    """Only index tensors that a draw brings have to go to the device."""
    sampling = NeighborSampling(drawn_from("primekg"), 8)
    draws = [sampling.draw(0, 0, batch) for batch in (0, 1)]
    first, second = ({t.data_ptr(): t.nbytes for t in tensors_in(drawn)} for drawn in draws)
    shared = first.keys() & second.keys()
    # relations, nodes; rows, ptr and row by target
    assert len(shared) == 5 * len(sampling.layout.groups)
    num_edges = sampling.layout.num_edges
    assert sum(n for p, n in first.items() if p not in shared) < 30 * num_edges


def test_draws_repeat_and_differ(drawn_from):
    messages = drawn_from("primekg")
    one, other = NeighborSampling(messages, 8), NeighborSampling(messages, 8)
    first = one.draw(3, 1, 4)
    for wrong in ((3, 1, 5), (3, 2, 4), (4, 1, 4)):
        drawn = one.draw(*wrong)
        assert (edge_list(first).source != edge_list(drawn).source).float().mean() > 0.2, wrong
    again = other.draw(3, 1, 4)  # by another object, and after other draws
    assert all(torch.equal(a, b) for a, b in zip(tensors_in(first), tensors_in(again), strict=True))


def hub(degree):
    """A graph of one node's edges from `degree` others."""
    e = ("gene", "to", "disease")
    return build_message_graph(
        {"gene": degree, "disease": 1},
        [e],
        {e: (torch.arange(degree), torch.zeros(degree, dtype=torch.int64))},
    )


def test_every_edge_of_a_hub_is_drawn_equally_often():
    """Edges and pairs of them: chi squared stays near its degrees of freedom, 400 edges and their
    79,800 pairs.
    """
    degree, k, num_draws = 400, 16, 1500
    sampling = NeighborSampling(hub(degree), k)
    times, together = torch.zeros(degree), torch.zeros(degree, degree)
    for batch in range(num_draws):
        genes = edge_list(sampling.draw(0, 0, batch)).source
        times[genes] += 1
        together[genes.unsqueeze(1), genes] += 1
    assert int(times.sum()) == num_draws * k
    assert chi_squared(times, num_draws * k / degree) == pytest.approx(
        degree - k, abs=5 * (2 * degree) ** 0.5
    )
    pairs = together[torch.triu(torch.ones(degree, degree, dtype=torch.bool), 1)]
    expected = num_draws * k * (k - 1) / (degree * (degree - 1))
    assert chi_squared(pairs, expected) == pytest.approx(
        len(pairs), abs=6 * (2 * len(pairs)) ** 0.5
    )


def chi_squared(counts, expected):
    return ((counts - expected).square().sum() / expected).item()


def test_rows_just_above_the_cap_leave_out_each_edge_equally_often():
    """17 of which 16 are drawn: where drawing again until all are distinct would be slow, or a
    window would be uneven.
    """
    sampling = NeighborSampling(hub(17), 16)
    times = torch.zeros(17)
    for batch in range(1000):
        times[edge_list(sampling.draw(1, 0, batch)).source] += 1
    left_out = 1000 - times
    assert chi_squared(left_out, 1000 / 17) < 45  # 16 degrees of freedom: 0.01 %


def in_types(edges):
    """`edges` in PyG's form: within their types."""
    starts = dict(
        zip(NUM_NODES, torch.tensor([0, *NUM_NODES.values()]).cumsum(0).tolist(), strict=False)
    )
    out = {}
    for number, (head, name, tail) in enumerate(EDGE_TYPES):
        own = edges.relation == number
        out[head, name, tail] = torch.stack(
            [edges.source[own] - starts[head], edges.target[own] - starts[tail]]
        )
    return out


@pytest.mark.parametrize("limits", LIMITS)
def test_the_layer_along_drawn_edges_equals_pyg(limits):
    """Outputs and the gradients of the input and the relation matrices, in float64.

    PyG gets the drawn edges by themselves.
    """
    torch.manual_seed(0)
    conv = HGTConv(16, 16, (list(NUM_NODES), EDGE_TYPES), 4).double()
    ours = HGTLayer(list(NUM_NODES), len(EDGE_TYPES), 16, 4).double()
    ours.load_pyg(conv)
    sampling = NeighborSampling(by_hand(random_edges()), 2, LIMITS[limits])
    x = torch.randn(sum(NUM_NODES.values()), 16, dtype=torch.float64)
    for batch in range(2):
        drawn = sampling.draw(0, 0, batch)
        assert any(bool((g.by_source.ptr.diff() == 0).any()) for g in drawn.groups), (
            "with empty segments"
        )
        x_pyg, x_ours = x.clone().requires_grad_(), x.clone().requires_grad_()
        expected = conv(
            dict(zip(NUM_NODES, x_pyg.split(list(NUM_NODES.values())), strict=True)),
            in_types(edge_list(drawn)),
        )
        got = dict(zip(NUM_NODES, ours(x_ours, drawn).split(list(NUM_NODES.values())), strict=True))
        reached = [t for t in NUM_NODES if expected.get(t) is not None]
        weight = {t: torch.randn(NUM_NODES[t], 16, dtype=torch.float64) for t in reached}
        for t in reached:
            torch.testing.assert_close(got[t], expected[t], atol=1e-10, rtol=0)
        conv.zero_grad()
        ours.zero_grad()
        sum((expected[t] * weight[t]).sum() for t in reached).backward()
        sum((got[t] * weight[t]).sum() for t in reached).backward()
        torch.testing.assert_close(x_ours.grad, x_pyg.grad, atol=1e-10, rtol=0)
        for mine, theirs in ((ours.key_transform, conv.k_rel), (ours.value_transform, conv.v_rel)):
            by_relation = theirs.weight.grad.view(4, len(EDGE_TYPES), 4, 4).transpose(0, 1)
            torch.testing.assert_close(mine.grad, by_relation, atol=1e-10, rtol=0)


def test_a_relation_is_transformed_on_the_side_that_is_less_work():
    """50 sources and 100 targets: sources, unless a table of them must be made twice over or is
    too long.
    """
    source = torch.arange(1000) % 50
    pairs = torch.unique(
        torch.stack(
            [source, torch.randint(100, (1000,), generator=torch.Generator().manual_seed(0))]
        ),
        dim=1,
    )
    e = ("a", "to", "b")
    messages = build_message_graph({"a": 50, "b": 100}, [e], {e: (pairs[0], pairs[1])})
    num_edges = NeighborSampling(messages, 4).layout.num_edges

    def sides(**limits):
        groups = NeighborSampling(
            messages, 4, dataclasses.replace(GroupLimits(), **limits)
        ).layout.groups
        return [g.transforms_source for g in groups]

    assert sides() == [True]
    assert sides(edges=num_edges // 2 + 4) == [True, True]
    assert not any(sides(edges=num_edges // 3 + 4))
    assert not any(sides(rows=49))


@pytest.mark.parametrize("value", [0, -1])
def test_a_cap_below_one_is_refused(value):
    with pytest.raises(
        InputError,
        match=f"Parameter num_neighbors must be between 1 and 1,000,000,000, not {value}",
    ):
        RunConfig.from_flat({"num_neighbors": value})
