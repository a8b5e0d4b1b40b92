"""Violations of each kind, to plant into the real training step, what is close to them and may
stay, and PyG's layer.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torch_geometric.nn import HGTConv

from hgt.graph.knowledge_graph import KnowledgeGraph

NO_KERNEL, WAIT, LONG = "no kernel", "host synchronisation", "long reduction"
ROWS = 32_001


@dataclass(frozen=True)
class Plant:
    """do: called in each step's backward pass with the gradient of the model's first parameter."""

    kind: str
    operation: str
    do: Callable[[Tensor], object]


def _ones(like: Tensor, *shape: int) -> Tensor:
    return torch.ones(shape, device=like.device)


def _numbers(like: Tensor) -> Tensor:
    return torch.zeros(3, dtype=torch.int64, device=like.device)


def _weight_gradient(like: Tensor, rows: int) -> None:
    with torch.enable_grad():
        linear = torch.nn.Linear(8, 4, device=like.device)
        linear(_ones(like, rows, 8)).sum().backward()


_sizes = itertools.count(1)

PLANTS = {
    "missing kernel": Plant(NO_KERNEL, "take", lambda g: g.take(_numbers(g))),
    "missing kernel within a composite": Plant(
        NO_KERNEL, "put_", lambda g: g.put(_numbers(g), g[0, :3])
    ),
    "missing kernel of unknown shape": Plant(
        NO_KERNEL, "segment_reduce", lambda g: torch.segment_reduce(g, "sum", offsets=_numbers(g))
    ),
    "kernel in 2.14 alone": Plant(
        NO_KERNEL, "_linalg_eigh.eigenvalues", lambda g: torch.linalg.eigvalsh(g.T @ g)
    ),
    "operand on the CPU": Plant("mixed devices", "add.Tensor", lambda g: g + torch.ones(g.shape)),
    "index on the CPU": Plant("mixed devices", "index.Tensor", lambda g: g[torch.tensor([0, 1])]),
    "item": Plant(WAIT, "_local_scalar_dense", lambda g: g.sum().item()),
    "condition": Plant(WAIT, "_local_scalar_dense", lambda g: 1 if (g > 0).any() else 0),
    "copy to the CPU": Plant(WAIT, "_to_copy", lambda g: g.cpu().numpy().sum()),
    "copy into a CPU tensor": Plant(WAIT, "copy_", lambda g: torch.ones(g.shape).copy_(g)),
    "copy to the device amid the step": Plant(
        WAIT, "_to_copy", lambda g: torch.ones(3).to(g.device)
    ),
    "tensor from numbers": Plant(
        WAIT, "_to_copy", lambda g: torch.tensor([1.0, 2.0], device=g.device)
    ),
    "fill from a CPU tensor": Plant(WAIT, "copy_", lambda g: g.clone().copy_(torch.ones(g.shape))),
    "list": Plant(WAIT, "_local_scalar_dense", lambda g: g[0].tolist()),
    "synchronize": Plant("error", "", lambda _: torch.accelerator.synchronize()),
    "nonzero": Plant(WAIT, "nonzero", lambda g: torch.nonzero(g)),
    "mask as index": Plant(WAIT, "index.Tensor", lambda g: g[g > 0]),
    "mask as index of an assignment": Plant(
        WAIT, "index_put_", lambda g: g.clone().index_put_((g > 0,), g[0, :1].expand(3))
    ),
    "mask as target": Plant(WAIT, "masked_scatter", lambda g: g.masked_scatter(g > 0, g)),
    "unique": Plant(WAIT, "_unique2", lambda g: torch.unique(g)),
    "fill with a device value": Plant(
        WAIT, "masked_fill_.Tensor", lambda g: g.clone().masked_fill_(g > 0, g[0, 0])
    ),
    "non-blocking copy": Plant(
        "non-blocking copy", "_to_copy", lambda g: torch.ones(3).to(g.device, non_blocking=True)
    ),
    "float64": Plant(
        "float64", "zeros", lambda g: torch.zeros(3, dtype=torch.float64, device=g.device)
    ),
    "float64 copied": Plant(
        "float64", "_to_copy", lambda g: torch.ones(3, dtype=torch.float64).to(g.device)
    ),
    "2^31 elements": Plant(
        "too many elements",
        "empty.memory_format",
        lambda g: torch.empty(2**31, dtype=torch.int8, device=g.device),
    ),
    "4 GB": Plant(
        "too many bytes", "empty.memory_format", lambda g: torch.empty(2**30, device=g.device)
    ),
    "mm": Plant(LONG, "mm", lambda g: _ones(g, 16, ROWS) @ _ones(g, ROWS, 16)),
    "addmm": Plant(
        LONG, "addmm", lambda g: torch.addmm(_ones(g, 16), _ones(g, 16, ROWS), _ones(g, ROWS, 16))
    ),
    "addmm_": Plant(
        LONG, "addmm_", lambda g: _ones(g, 16, 16).addmm_(_ones(g, 16, ROWS), _ones(g, ROWS, 16))
    ),
    "mm into a tensor": Plant(
        LONG,
        "mm.out",
        lambda g: torch.mm(_ones(g, 16, ROWS), _ones(g, ROWS, 16), out=_ones(g, 16, 16)),
    ),
    "baddbmm": Plant(
        LONG,
        "baddbmm",
        lambda g: torch.baddbmm(_ones(g, 16), _ones(g, 2, 16, ROWS), _ones(g, 2, ROWS, 16)),
    ),
    "addbmm": Plant(
        LONG,
        "addbmm",
        lambda g: torch.addbmm(
            _ones(g, 16), _ones(g, 2, 16, ROWS // 2 + 1), _ones(g, 2, ROWS // 2 + 1, 16)
        ),
    ),
    "mv": Plant(LONG, "addmv_", lambda g: _ones(g, 16, ROWS) @ _ones(g, ROWS)),
    "dot": Plant(LONG, "dot", lambda g: _ones(g, ROWS) @ _ones(g, ROWS)),
    "bmm": Plant(LONG, "bmm", lambda g: torch.bmm(_ones(g, 2, 16, ROWS), _ones(g, 2, ROWS, 16))),
    "einsum": Plant(
        LONG,
        "bmm",
        lambda g: torch.einsum("nhi,nhj->hij", _ones(g, ROWS, 2, 16), _ones(g, ROWS, 2, 16)),
    ),
    "linear": Plant(
        LONG, "linear", lambda g: functional.linear(_ones(g, 4, ROWS), _ones(g, 4, ROWS))
    ),
    "gradient of a weight": Plant(LONG, "linear_backward", lambda g: _weight_gradient(g, ROWS)),
    "another shape in each step": Plant(
        "shapes differ", "zeros", lambda g: torch.zeros(next(_sizes), device=g.device)
    ),
    "another operation in each step": Plant(
        "shapes differ", "sin", lambda g: torch.sin(g) if next(_sizes) % 2 else torch.cos(g)
    ),
    "error": Plant("error", "", lambda g: g.view(-1, 7, 11, 13)),
}

HARMLESS = {
    "32,000 rows": lambda g: _weight_gradient(g, ROWS - 1),
    "a scalar of the CPU": lambda g: g * torch.tensor(0.5),
    "a mask that fills": lambda g: g.clone().index_put_((g > 0,), torch.zeros((), device=g.device)),
    "a composite function": lambda g: torch.stack([g, g]).logsumexp(0).split(2),
    "float64 on the CPU": lambda _: torch.ones(3, dtype=torch.float64).sum().item(),
}


def pyg_step(graph: KnowledgeGraph, device: torch.device) -> Callable[[], None]:
    """Forward and backward of PyG's HGT layer at our hidden size and heads, over the facts in both
    directions.
    """
    edges = {e: graph.edge_index[e].to(device) for e in graph.edge_types}
    edges |= {(t, f"rev_{r}", h): edges[h, r, t].flip(0) for h, r, t in graph.edge_types}
    x = {t: torch.ones(n, 256, device=device) for t, n in graph.num_nodes.items()}
    layer = HGTConv(256, 256, (graph.node_types, list(edges)), heads=8)
    # it may have been made there
    if next(layer.parameters()).device != next(iter(x.values())).device:
        layer.to(device)
    return lambda: sum(v.sum() for v in layer(x, edges).values()).backward()
