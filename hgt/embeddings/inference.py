"""Embeddings of all nodes, computed layer by layer in chunks of nodes.

In: a trained encoder and a message graph. Out: [num_nodes, dim] vectors. Writes no file.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from hgt.messages.grouping import edge_list, edges_into
from hgt.messages.message_graph import MessageGraph
from hgt.model.encoder import HGTEncoder
from hgt.model.layer import HGTLayer
from hgt.model.length_bound import MOST_BETWEEN_LAYERS, bounded


@torch.no_grad()
def infer_layerwise(
    encoder: HGTEncoder, graph: MessageGraph, node_batch_size: int
) -> Float[Tensor, "num_nodes dim"]:
    """[num_nodes, dim] embeddings of all nodes, one layer and `node_batch_size` nodes at a time.
    Dropout is off.

    Besides keys and values of one layer, memory holds the edges and messages of one chunk only.
    """
    encoder.eval()
    edges = edge_list(graph).cpu().sorted_by_target()
    x = encoder.node_embedding.detach()
    spans = [
        (start, min(start + node_batch_size, len(x))) for start in range(0, len(x), node_batch_size)
    ]
    for number, layer in enumerate(encoder.layers):
        assert isinstance(layer, HGTLayer)
        if number:
            x = bounded(x, MOST_BETWEEN_LAYERS)
        key_value, out = layer.keys_and_values(x, graph), torch.empty_like(x)
        for span in spans:
            out[slice(*span)] = layer.infer(
                x, edges_into(graph, edges, *span).to(x.device), span, key_value
            )
        x = out
    embeddings = x.new_empty(len(x), encoder.projection.out_features)
    for span in spans:
        embeddings[slice(*span)] = encoder.project(x[slice(*span)])
    return bounded(embeddings)
