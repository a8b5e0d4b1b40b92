"""The embeddings of a trained run.

In: a run folder and its best checkpoint. Out: the files that `hgt/embeddings/table.py` writes.
"""

from __future__ import annotations

from pathlib import Path

from hgt.embeddings.inference import infer_layerwise
from hgt.embeddings.table import Embeddings
from hgt.messages.training_messages import training_message_graph
from hgt.model.hgt_model import HGTModel
from hgt.run.checkpoint import best_checkpoint, load_model
from hgt.run.folder import RunFolder
from hgt.run.opened import open_run
from hgt.run.program import OnEvent


def embed_run(
    folder: RunFolder, on_event: OnEvent, csv: Path | None = None, overwrite: bool = False
) -> None:
    """Write the embeddings of a trained run folder, and on request a CSV.

    csv: path of the CSV; None for no CSV.
    overwrite: replace a file at that path.
    """
    run = open_run(folder)
    checkpoint = best_checkpoint(folder.checkpoints)
    run.identity.check(vars(checkpoint), folder.checkpoints)
    messages = training_message_graph(run.graph, run.split)
    model = HGTModel(run.graph, run.config.model)
    load_model(model, "model", checkpoint.tensors)
    with run.memory.phase("inference"):
        encoder, chunk = model.encoder.to(run.device), run.config.execution.node_batch_size
        vectors = infer_layerwise(encoder, messages.to(run.device), chunk).cpu()
    origin = {
        **run.identity.as_dict(),
        "decoder": run.config.model.decoder,
        "best_epoch": checkpoint.progress.best_epoch,
        "parameters": run.config.to_flat(),
    }
    relations = model.decoder.relation_vectors().detach()
    nodes, edge_types = run.graph.node_table(), tuple(run.graph.edge_types)
    embeddings = Embeddings(nodes, vectors, edge_types, relations, origin)
    embeddings.save(folder.embeddings)
    if csv is not None:
        embeddings.save_csv(csv, overwrite, folder.outputs)
    on_event(
        "embedded", num_nodes=len(vectors), embedding_dim=vectors.shape[1], **run.memory.as_dict()
    )
