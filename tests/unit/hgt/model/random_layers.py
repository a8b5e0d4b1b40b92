"""Random heterogeneous graphs, and layers of PyG and of ours with the same parameters."""

import torch
from torch_geometric.nn import HGTConv

from hgt.messages.training_messages import build_message_graph
from hgt.model.layer import HGTLayer

NUM_NODES = {"drug": 13, "gene": 40, "disease": 7, "lonely": 5}


EDGE_TYPES = [
    ("drug", "treats", "disease"),
    ("disease", "rev_treats", "drug"),
    ("gene", "interacts", "gene"),
    ("gene", "regulates", "gene"),
    ("drug", "targets", "gene"),
    ("disease", "empty", "gene"),
    ("lonely", "points_at", "drug"),
]


def random_edges(seed, sizes=None):
    generator = torch.Generator().manual_seed(seed)
    sizes = sizes or dict.fromkeys(EDGE_TYPES, 60)
    return {
        e: torch.stack(
            [torch.randint(NUM_NODES[end], (n,), generator=generator) for end in (e[0], e[2])]
        )
        for e, n in ((e, 0 if e[1] == "empty" else sizes[e]) for e in EDGE_TYPES)
    }


def pair(seed, hidden=16, heads=4):
    """PyG's layer and ours with the same parameters, none of them at its initial value."""
    torch.manual_seed(seed)
    conv = HGTConv(hidden, hidden, (list(NUM_NODES), EDGE_TYPES), heads)
    with torch.no_grad():
        for p in conv.parameters():
            p.add_(0.3 * torch.randn_like(p))
    ours = HGTLayer(list(NUM_NODES), len(EDGE_TYPES), hidden, heads)
    ours.load_pyg(conv)
    return conv, ours


def starts(edge_type):
    first = dict(
        zip(NUM_NODES, torch.tensor([0, *NUM_NODES.values()]).cumsum(0).tolist(), strict=False)
    )
    return torch.tensor([[first[edge_type[0]]], [first[edge_type[2]]]])


def our_graph(edges, limits=None):
    return build_message_graph(
        NUM_NODES, EDGE_TYPES, {e: (i[0], i[1]) for e, i in edges.items()}, limits=limits
    )
