"""Bytes at the worst moment of inference, of validation and of the test.

In: counts and sizes. Out: bytes, as `inference.py` and `ranks.py` make and drop tensors. Whoever
changes that changes it here.
"""

from __future__ import annotations

from dataclasses import replace

from hgt.evaluation.ranks import COMPARED_PER_CHUNK, SCORES_PER_CHUNK
from hgt.kernels.nodes import MAX_REDUCTION_ROWS
from hgt.memory.counts import Asked, Counts
from hgt.memory.group_bytes import FLOAT, LONG
from hgt.memory.message_bytes import MessageBytes, attend_bytes, attended_bytes
from hgt.messages.message_graph import GroupLimits
from hgt.training.step_form import StepForm


def inference_bytes(c: Counts, b: MessageBytes) -> int:
    """Bytes of layer-wise inference: inputs and outputs, keys and values, and a chunk's edges. Or
    the embeddings beside the last keys and values.
    """
    on_cpu = c.traits.is_host
    chunk = MessageBytes(
        replace(c, nodes=min(c.node_chunk, c.nodes), largest_type=c.node_chunk),
        c.chunk_types,
        GroupLimits(),
    )
    edges = b.edges * 3 * LONG if on_cpu else 0  # sorted by target
    of_layer = (2 if c.layers > 1 else 1) * b.node + 2 * b.compute
    attend = max(
        chunk.compute + chunk.scores(),
        chunk.messages(),
        2 * chunk.node + chunk.weights + 2 * chunk.part,
    )
    moments = [
        b.edges * (7 if on_cpu else 4) * LONG,  # `edge_list` and `sorted_by_target`
        edges + of_layer + chunk.graph - chunk.facts + attend,
        # `edges_into`, while it groups and sorts
        edges + of_layer + (16 * chunk.edges * LONG if on_cpu else 0),
        # keys and values of the layer before go when the new ones are there
        edges + of_layer + (2 * b.compute if c.layers > 1 else 0),
        edges + b.node + 2 * b.compute + (c.nodes + min(c.node_chunk, c.nodes)) * c.dim * FLOAT,
    ]
    return b.graph + max(moments)


def validation_bytes(c: Counts, b: MessageBytes, form: StepForm) -> int:
    """Bytes of the validation after an epoch: a forward pass, then ranks."""
    inputs = b.node if c.layers > 1 else 0
    attended = attended_bytes(b, form.keeps_projections)
    embeddings = c.nodes * c.dim * FLOAT
    projected = embeddings * (1 if c.nodes <= MAX_REDUCTION_ROWS else 2)  # in parts, then as one
    return max(
        inputs + max(attend_bytes(b, form.keeps_projections), attended + b.node + 2 * b.part),
        b.node + projected,
        embeddings + _ranking(c, c.ranked),
    )


def test_bytes(c: Counts) -> int:
    """Bytes of the test. It is a program of its own and has only the embeddings. Reading them takes
    host memory.
    """
    embeddings = (c.nodes + c.relations) * c.dim * FLOAT
    reading = _READING_FACTOR * embeddings if c.traits.is_host else 0
    return max(embeddings + _ranking(c, c.tested), reading)


def _ranking(c: Counts, asked: tuple[Asked, ...]) -> int:
    """Bytes of scores, of the signs that compare them, and of the places of known facts. Two chunks
    of signs live at the same time, because one follows the other.
    """
    scores = (
        min(SCORES_PER_CHUNK, a.nodes * a.candidates)
        + min(2 * COMPARED_PER_CHUNK, a.facts * a.candidates)
        for a in asked
    )
    sizes = (n * FLOAT + a.known * LONG for n, a in zip(scores, asked, strict=True))
    return max(sizes, default=0)


_READING_FACTOR = 5  # of a Parquet table, while it is read (66,903 x 512: 700 MB for 137 MB)
