"""Bytes at the worst moment of a training step.

In: counts, sizes and a form of the step. Out: bytes by part, as `layer_pass.py`, `step.py` and
`loss_gradient.py` make and drop tensors. Whoever changes that changes it here.
"""

from __future__ import annotations

from hgt.memory.counts import Counts
from hgt.memory.group_bytes import FLOAT, INT, LONG
from hgt.memory.message_bytes import MessageBytes, attend_bytes, attended_bytes
from hgt.training.sampled_softmax import rows_at_a_time
from hgt.training.step_form import StepForm


def batch_bytes(c: Counts, form: StepForm) -> int:
    """Bytes of all `MicroBatch`es: nodes; weights, relations, order and filters of both sides;
    anchors with weights and filters.
    """
    parts = form.accumulation_steps
    anchors, pool = c.batch.contrast or (0, 0)
    of_facts = c.batch.facts(parts) * (FLOAT + 2 * LONG + 2 * c.batch.width)
    return parts * (c.batch.rows(parts) * INT + of_facts) + anchors * (pool + FLOAT)


def step_parts(c: Counts, b: MessageBytes, form: StepForm) -> dict[str, int]:
    """{part: bytes} at the worst moment of a step, without weights, Adam, graph and batch."""
    attended = attended_bytes(b, form.keeps_projections)
    kept_per_layer = b.kept + (0 if form.recompute_layers else attended)
    # the dropped inputs are made again from it
    kept_of_inputs = c.nodes * c.hidden * c.input_dropout
    saved = c.layers * kept_per_layer + (c.layers - 1) * b.node + kept_of_inputs
    first_alone, first_too = kept_per_layer + kept_of_inputs, b.node * c.input_dropout
    moments = [
        _forward(b, form, saved - kept_per_layer + first_too * (c.layers == 1), attended),
        *_decoder(c, b, form, saved),
        _backward(c, b, form, saved + first_too * (c.layers == 1), attended, gradients=b.layer),
        # The first layer's backward pass comes last. The other layers have their gradients by then,
        # and the tensors that they kept are freed.
        _backward(c, b, form, first_alone + first_too, attended, gradients=c.layers * b.layer),
    ]
    return max(moments, key=lambda parts: sum(parts.values()))


def _forward(b: MessageBytes, form: StepForm, saved: int, attended: int) -> dict[str, int]:
    """The last layer: attention, or the output map with its activations and products."""
    last = max(attend_bytes(b, form.keeps_projections), attended + b.node + 2 * b.part)
    return {"kept for the backward pass": saved + b.kept, "forward, last layer": last}


def _decoder(c: Counts, b: MessageBytes, form: StepForm, saved: int) -> list[dict[str, int]]:
    """The loss of a micro-batch. Where all nodes are projected first, also the backward pass
    through the projection.
    """
    rows, facts, width = (
        c.batch.rows(form.accumulation_steps),
        c.batch.facts(form.accumulation_steps),
        c.batch.width,
    )
    first, shared = c.batch.projects_first(c.nodes), c.batch.num_shared
    dim, hidden = c.dim * FLOAT, c.hidden * FLOAT
    state = dim if first else hidden
    # Of the pools, from the first part to the last: numbers, states, embeddings and their gradient.
    pools = shared * (LONG + state + (1 if first else 2) * dim)
    own = (rows - shared) * (LONG + state + (0 if first else dim))
    some = min(c.batch.competing(form.accumulation_steps), rows_at_a_time(c.device))
    losses = (
        facts * c.query_tensors * dim,  # while the decoder makes the queries of both sides
        # Relations, queries and their gradients of both sides; the pools' gradient; filters in the
        # heads' order; some facts' scores.
        facts * (6 * dim + width) + shared * dim + some * width * FLOAT,
        # gradients of all rows by section, and those of queries
        (rows - shared) * dim + facts * 5 * dim,
    )
    states = {
        "kept for the backward pass": saved + (b.node if first else 0),
        "embeddings and their gradient" if first else "hidden states and their gradient": (
            2 * c.nodes * (dim if first else hidden)
        ),
    }
    moments = [states | {"loss of one micro-batch": pools + own + max(losses)}]
    if first:
        moments.append(
            states
            | {
                "last micro-batch and gradient of the hidden states": (
                    pools + (rows - shared) * LONG + b.node
                )
            }
        )
    return moments


def _backward(
    c: Counts, b: MessageBytes, form: StepForm, saved: int, attended: int, gradients: int
) -> dict[str, int]:
    """The backward pass of a layer. The incoming gradient becomes that of the layer's input.

    saved: bytes kept for the backward pass.
    gradients: bytes of the gradients of parameters.
    """
    keeps = form.keeps_projections
    half = b.compute if b.compute < b.node else 0  # the gradient of the sums in half precision
    working = max(
        # `_update_backward`: gradient of the messages; activations, their gradient and that of the
        # output map
        b.node + 3 * b.part,
        # `sum_backward`: gradient of the sums, and its product with the messages
        2 * b.node + b.per_head,
        # without messages: gradients of the sums and of the values, values
        b.node + b.per_head + half + (0 if keeps else b.compute) + b.message_backward(),
        # without messages (and values): queries and keys and their gradients
        b.node
        + (b.node * b.joins - b.compute - b.value_tables if keeps else 2 * b.compute)
        + b.score_backward(),
    )
    if form.recompute_layers:
        working = max(attended + working, attend_bytes(b, keeps=False))
    return {
        "kept for the backward pass": saved,
        "gradients": b.node + gradients,
        "backward, one layer": working,
    }
