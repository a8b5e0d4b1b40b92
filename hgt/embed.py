"""The embedding program: `python -m hgt.embed <run folder> [csv [--overwrite]]`, a child process as the trainer is.

Takes the best checkpoint, computes every node's embedding layer by layer, and writes the files of `embeddings.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hgt.device.device import DeviceMemory, prepare_device, probe_device
from hgt.embeddings.table import Embeddings, infer_layerwise
from hgt.memory.plan import memory_limit
from hgt.messages.message_graph import training_message_graph
from hgt.model.hgt_model import HGTModel
from hgt.run.checkpoint import best_checkpoint, load_model
from hgt.run.folder import RunFolder
from hgt.run.identity import Identity
from hgt.run.program import OnEvent, planned_device, planned_phases, run_program

OVERWRITE = "--overwrite"


def embed_run(folder: RunFolder, on_event: OnEvent, csv: Path | None = None, overwrite: bool = False) -> None:
    """Write the embeddings of a trained run folder, and to `csv` what may be replaced there."""
    config, graph = folder.load_config(), folder.load_graph()
    split = folder.load_split(graph)
    messages, identity = training_message_graph(graph, split), Identity.of(graph, split, config)
    checkpoint = best_checkpoint(folder.checkpoints)
    identity.check(vars(checkpoint), folder.checkpoints)
    limit = memory_limit(config)
    probe = probe_device(planned_device(folder), limit)
    device = prepare_device(probe.type, limit)
    model = HGTModel(graph, config.model)
    load_model(model, "model", checkpoint.tensors)
    memory = DeviceMemory(probe.type, planned_phases(folder), limit)
    with memory.phase("inference"):
        vectors = infer_layerwise(model.encoder.to(device), messages.to(device), config.train.node_batch_size).cpu()
    origin = {
        **identity.as_dict(),
        "decoder": config.model.decoder,
        "best_epoch": checkpoint.progress.best_epoch,
        "parameters": config.to_flat(),
    }
    relations = model.decoder.relation_vectors().detach()
    embeddings = Embeddings(graph.node_table(), vectors, tuple(graph.edge_types), relations, origin)
    embeddings.save(folder.embeddings)
    if csv is not None:
        embeddings.save_csv(csv, overwrite, folder.outputs)
    on_event("embedded", num_nodes=len(vectors), embedding_dim=vectors.shape[1], **memory.as_dict())


def _embed(folder: RunFolder, on_event: OnEvent, csv: str | None = None, *more: str) -> None:
    embed_run(folder, on_event, Path(csv) if csv else None, OVERWRITE in more)


if __name__ == "__main__":
    sys.exit(run_program("embed", sys.argv[1:], _embed))
