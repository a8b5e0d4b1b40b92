"""The model of a run: an HGT encoder, and the decoder that the configuration names.

In: a graph and the model's parameters. Out: the module whose weights a checkpoint holds. It knows
neither losses nor files.
"""

from __future__ import annotations

from torch import nn

from hgt.config import ModelConfig
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.messages.training_messages import message_edge_types
from hgt.model.decoders import DECODERS
from hgt.model.encoder import HGTEncoder


class HGTModel(nn.Module):
    """Encoder and decoder of one run; what a checkpoint holds."""

    def __init__(self, graph: KnowledgeGraph, config: ModelConfig):
        super().__init__()
        self.encoder = HGTEncoder(graph.num_nodes, message_edge_types(graph), config)
        decoder = DECODERS[config.decoder]
        self.decoder = decoder(len(graph.edge_types), config.embedding_dim, graph.symmetric_numbers)
