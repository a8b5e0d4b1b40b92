"""How a run is trained: its optimizer, its batches, its losses and when it stops.

Sections by topic. None of them says where the training runs.
"""

from __future__ import annotations

from dataclasses import dataclass

from hgt.config.ranges import COUNT, EPOCHS, SHARE, SHARE_BELOW_1
from hgt.parameter import Range, check_values, parameter


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its schedule."""

    learning_rate: float = parameter(
        0.003, "learning rate of Adam at the start", range=Range(0, 10, open_low=True)
    )
    rate_decay_epochs: int = parameter(
        75,
        "epochs over which the learning rate falls to a fiftieth, along half a cosine. 0 keeps it"
        " constant",
        "epochs",
        range=Range(0, 1_000_000),
    )
    min_rate_decay_steps: int = parameter(
        2500,
        "minimum number of optimizer steps over which the learning rate falls. Small graphs have"
        " few steps per epoch and need it",
        "batches",
        range=COUNT,
    )
    weight_decay: float = parameter(
        0.3,
        "decoupled weight decay (as in AdamW) of the attention's key, query and relation matrices."
        " A larger value spreads attention over more neighbours",
        range=Range(0, 100),
    )
    average_decay: float = parameter(
        0.99,
        "decay per step of the moving average of the weights. The average is evaluated and saved."
        " A larger value averages over more steps. 0 uses the latest weights",
        range=SHARE_BELOW_1,
    )
    max_grad_norm: float = parameter(
        1.0,
        "maximum norm of the gradients. Longer gradients are clipped to it",
        range=Range(0, 1_000_000_000, open_low=True),
    )

    def __post_init__(self) -> None:
        check_values(self)


@dataclass(frozen=True)
class BatchConfig:
    """How many facts and edges a training step sees."""

    edge_sample_size: int = parameter(
        5000,
        "maximum number of facts of each edge type in a batch. A larger value makes fewer and"
        " larger batches",
        "edges",
        range=COUNT,
    )
    accumulation_steps: int = parameter(
        4,
        "number of micro-batches whose gradients add up to one batch. A larger value needs less"
        " memory and more time",
        "micro-batches",
        changes_result=False,
        range=Range(1, 1_024),
    )
    num_neighbors: int | None = parameter(
        None,
        "maximum number of edges of each edge type into a node, sampled anew for each training"
        " step. Uses all edges when not given",
        "edges",
        range=COUNT,
    )
    min_batches_per_epoch: int = parameter(
        10,
        "minimum number of optimizer steps per epoch. Batches of small graphs become smaller",
        "batches",
        range=Range(1, 10_000),
    )

    def __post_init__(self) -> None:
        check_values(self)


@dataclass(frozen=True)
class LossConfig:
    """The losses, their weights and their negatives."""

    num_negatives: int = parameter(
        1024,
        "number of sampled nodes that a fact's tail (or head) is compared with. They have its node"
        " type. A larger value needs more memory",
        "nodes",
        range=Range(1, 1_000_000),
    )
    softmax_correction: float = parameter(
        0.0,
        "exponent x of the sampled-softmax correction (nodes / sampled)^x. 0 turns it off",
        range=SHARE,
    )
    num_other_negatives: int = parameter(
        16,
        "number of sampled nodes of every other node type that a fact's tail (or head) is compared"
        " with. 0 turns them off",
        "nodes",
        range=Range(0, 1_000_000),
    )
    contrastive_weight: float = parameter(
        0.0,
        "share of the contrastive loss in the total loss. A larger value lowers ranking quality. 0"
        " turns it off",
        range=SHARE,
    )
    isotropy_weight: float = parameter(
        10.0,
        "weight of the penalty on a high mean cosine and a low effective dimension",
        range=Range(0, 1_000_000),
    )
    contrastive_node_type: str = parameter(
        "disease", "node type of the contrastive loss. Ignored when the graph does not have it"
    )
    contrastive_temperature: float = parameter(
        0.1,
        "temperature of the contrastive loss (InfoNCE). A larger value separates nodes less"
        " strictly",
        range=Range(0.001, 1_000),
    )
    similarity_threshold: float = parameter(
        0.1,
        "minimum Jaccard similarity of two nodes' neighbours for the contrastive loss to pull the"
        " nodes together",
        range=SHARE,
    )

    def __post_init__(self) -> None:
        check_values(self)


@dataclass(frozen=True)
class StoppingConfig:
    """How long a run trains, what stops it early and how often it saves."""

    num_epochs: int = parameter(
        100,
        "maximum number of epochs. One epoch trains on every training fact exactly once",
        "epochs",
        changes_result=False,
        range=EPOCHS,
    )
    patience: int = parameter(
        10,
        "number of epochs without a better validation MRR after which training stops",
        "epochs",
        changes_result=False,
        range=EPOCHS,
    )
    num_val_edges: int = parameter(
        5000,
        "maximum number of validation facts ranked after each epoch. A larger value makes early"
        " stopping more reliable and slower",
        "edges",
        range=COUNT,
    )
    checkpoint_minutes: float = parameter(
        10.0,
        "maximum time between two checkpoints within an epoch",
        "minutes",
        changes_result=False,
        range=Range(0, 10_080, open_low=True),
    )

    def __post_init__(self) -> None:
        check_values(self)
