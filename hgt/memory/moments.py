"""Bytes at the worst moment of each phase: the sum of the tensors that live at that moment.

In: counts and a form of the step. Out: bytes by phase, and the parts of the step's worst moment.
The rooms' other files know the tensors; this one adds them up.
"""

from __future__ import annotations

from hgt.memory.counts import Counts
from hgt.memory.evaluation_moments import inference_bytes, test_bytes, validation_bytes
from hgt.memory.group_bytes import INT, LONG
from hgt.memory.message_bytes import MessageBytes
from hgt.memory.step_moments import batch_bytes, step_parts
from hgt.training.step_form import StepForm


def worst_moments(c: Counts, form: StepForm) -> tuple[dict[str, int], dict[str, int]]:
    """{phase: bytes at its worst moment}, and {part: bytes} of the step's worst moment."""
    b = MessageBytes(c, c.message_types, form.limits)
    step = MessageBytes(c, c.step_types, form.limits, drawn=True) if c.draws_edges else b
    batch = batch_bytes(c, form) + step.removed
    step_graph, evaluation_graph = b.graph, b.graph
    # Between evaluations, the graph with all edges is on the CPU. Facts of drawn edges always are.
    if c.draws_edges:
        step_graph = step.graph - step.facts
        # In addition, the graph with all edges (CPU), or the draw of the recorded step (CUDA).
        of_record = step_graph - step.same_in_draws if c.traits.records_steps else 0
        step_graph += b.graph if c.traits.is_host else of_record
        evaluation_graph = b.graph + step.same_in_draws
    host = _host_bytes(c) if c.traits.is_host else {}
    gaps = _GAPS if c.traits.is_host else 0.0
    drawing = _drawing_bytes(c, b, step) if c.traits.is_host and c.draws_edges else 0
    libraries = c.traits.library_bytes
    average = b.parameters if c.traits.is_host and c.averages else 0  # it is in host memory
    has_second_batch = c.traits.is_host or c.traits.records_steps  # the next one; the recorded one
    tensors = {
        **({"drawing of edges": drawing} if drawing else {}),
        **({"average of the weights": average} if average else {}),
        "weights and Adam": 3 * b.parameters,
        "message graph": step_graph,
        "batch": 2 * batch if has_second_batch else batch,
        **step_parts(c, step, form),
    }
    worst = {
        "step": sum(tensors.values()),
        "optimizer": average + drawing + 4 * b.parameters + step_graph + tensors["batch"],
        "inference": b.parameters + inference_bytes(c, b),
        # the last step's gradients stay until the next step begins
        "evaluation": max(
            average + drawing + 4 * b.parameters + evaluation_graph + validation_bytes(c, b, form),
            test_bytes(c),
        ),
    }
    beside = sum(host.values()) + libraries
    phases = {name: beside + n + int(gaps * n) for name, n in worst.items()}
    parts = {
        **host,
        **({"gaps between blocks": int(gaps * worst["step"])} if gaps else {}),
        **({"libraries": libraries} if libraries else {}),
        **tensors,
    }
    return phases, parts


# Measured in a training process (Linux, torch 2.13): interpreter, torch and the library take 313
# MiB; the optimizer and the first step load another 168 MiB. A node takes its strings, a fact its
# edge index, split and filters.
_PROCESS_BYTES = 481 << 20
_BYTES_PER_NODE = 400
_BYTES_PER_FACT = 150
# The heap keeps freed blocks (`host.keep_freed_memory`). With each block mapped by itself, a
# process took the planned bytes (within 3 %). In the heap it took a tenth to a third more (nine
# cases).
_GAPS = 0.2


def _host_bytes(c: Counts) -> dict[str, int]:
    """Bytes of the process. On the CPU they come out of the same memory."""
    return {
        "process": _PROCESS_BYTES,
        "graph, split and filters": c.nodes * _BYTES_PER_NODE + c.facts * _BYTES_PER_FACT,
    }


def _drawing_bytes(c: Counts, b: MessageBytes, step: MessageBytes) -> int:
    """Bytes for drawing edges: sources and facts of all edges by target, places in a draw, and the
    draw of the next step.
    """
    return b.edges * 2 * INT + step.edges * (LONG + 2 * INT) + step.graph
