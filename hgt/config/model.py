"""The size and the form of the encoder and the decoder."""

from __future__ import annotations

from dataclasses import dataclass

from hgt.config.ranges import SHARE_BELOW_1, WIDTH
from hgt.errors import InputError
from hgt.parameter import Range, check_values, parameter


@dataclass(frozen=True)
class ModelConfig:
    """The encoder and the decoder."""

    embedding_dim: int = parameter(
        512, "size of the final embeddings. Never changed automatically", "dimensions", range=WIDTH
    )
    hidden_dim: int = parameter(
        256,
        "size of the learned node inputs and of the HGT layers. A larger size needs more memory"
        " and time",
        "dimensions",
        range=WIDTH,
    )
    num_layers: int = parameter(
        3,
        "number of HGT layers. Each layer lets a node see neighbours one step further away",
        "layers",
        range=Range(1, 100),
    )
    num_heads: int = parameter(
        8,
        "number of attention heads. hidden_dim must be a multiple of it",
        "heads",
        range=Range(1, 1_024),
    )
    dropout: float = parameter(
        0.2, "dropout on the output of each HGT layer while training", range=SHARE_BELOW_1
    )
    input_dropout: float = parameter(
        0.4,
        "dropout on the learned node inputs. Makes nodes recognisable from their neighbours",
        range=SHARE_BELOW_1,
    )
    edge_dropout: float = parameter(
        0.1,
        "share of the facts that each training step leaves out of message passing, drawn at random",
        range=SHARE_BELOW_1,
    )
    mixed_precision: bool = parameter(
        False,
        "compute matrix products and the values gathered along edges in bfloat16. Sums and softmax"
        " stay in float32. Needs less memory",
    )
    decoder: str = parameter(
        "complex",
        "decoder that scores a relation from two final embeddings",
        choices=("distmult", "complex"),
    )

    def __post_init__(self) -> None:
        check_values(self)
        if self.hidden_dim % self.num_heads:
            raise InputError(
                f"hidden_dim {self.hidden_dim} must be a multiple of num_heads {self.num_heads}."
            )
        if self.decoder == "complex" and self.embedding_dim % 2:
            raise InputError(
                f"The complex decoder needs an even embedding_dim, not {self.embedding_dim}."
            )
