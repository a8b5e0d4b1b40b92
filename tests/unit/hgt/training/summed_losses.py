"""The losses of a whole batch, from the embeddings of all nodes."""

import torch

from hgt.training.losses import micro_batch_loss


def loss_of(rows, micro, layout, decoder, losses, n3=0.0):
    """rows: the embeddings of the micro-batch's nodes."""
    return micro_batch_loss(*rows.split(layout.shared_and_own), micro, layout, decoder, losses, n3)


def summed(embeddings, batch, batches, decoder, losses, n3=0.0):
    """The losses of a batch: those of its parts, added up."""
    parts = [
        loss_of(embeddings[m.nodes], m, batches.layout, decoder, losses, n3)
        for m in batch.micro_batches
    ]
    return {
        name: sum(p.get(name, torch.zeros(())) for p in parts)
        for name in ("total", "link", "contrastive")
    }
