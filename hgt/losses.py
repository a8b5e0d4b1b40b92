"""The loss of one micro-batch, from the embeddings of its nodes alone.

`(1 - contrastive_weight) * link + contrastive_weight * contrastive` (DESIGN.md 4). Summed over the micro-batches of a batch,
the parts are the batch's loss: every weight is 1 / (rows of the whole batch).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hgt.batches import Layout, MicroBatch
from hgt.config import TrainConfig
from hgt.model import Decoder, normalized

_FILTERED = -1e30


@dataclass(frozen=True)
class LossParts:
    """Scalars on the device: the loss to minimise, and its two parts as they are logged."""

    total: Float[Tensor, ""]
    link: Float[Tensor, ""]
    contrastive: Float[Tensor, ""]


def micro_batch_loss(
    rows: Float[Tensor, "num_rows dim"], micro: MicroBatch, layout: Layout, decoder: Decoder, config: TrainConfig
) -> LossParts:
    """rows: the embeddings of `micro.nodes`. Without a contrastive part the link loss is the whole loss."""
    sections = rows.split(layout.sections)  # one split: each slice's gradient would be a full-size tensor of zeros
    link = _link_loss(sections, micro, layout, decoder)
    if layout.contrast is None:
        return LossParts(link, link, torch.zeros_like(link))
    contrast = layout.contrast
    anchor, positive, pool = (sections[s] for s in (contrast.anchor, contrast.positive, contrast.pool))
    contrastive = info_nce(anchor, positive, pool, micro.anchor_known, config.contrastive_temperature)
    contrastive = (contrastive * micro.anchor_weight).sum()
    weight = config.contrastive_weight
    return LossParts((1 - weight) * link + weight * contrastive, link, contrastive)


def _link_loss(sections: tuple[Tensor, ...], micro: MicroBatch, layout: Layout, decoder: Decoder) -> Tensor:
    """Mean over facts and both sides of: -log softmax of the true end among the sampled ones of its type, true ones left out."""
    total = micro.weight.new_zeros(())
    for r in layout.relations:
        head, tail = sections[r.head], sections[r.tail]
        tail_query = decoder.tail_query(head, r.relation)
        true = (tail_query * tail).sum(-1)
        among_tails = tail_query @ sections[r.tail_pool].T
        among_heads = decoder.head_query(tail, r.relation) @ sections[r.head_pool].T
        loss = _softmax_loss(true, among_tails, micro.tail_known[r.facts]) + _softmax_loss(true, among_heads, micro.head_known[r.facts])
        total = total + 0.5 * (loss * micro.weight[r.facts]).sum()
    return total


def _softmax_loss(true: Tensor, others: Tensor, known: Tensor) -> Tensor:
    """[n] cross-entropy of `true` [n] against `others` [n, k], those that are `known` to be true as well left out."""
    others = others.masked_fill(known[:, : others.shape[1]], _FILTERED)
    return torch.logsumexp(torch.cat([true.unsqueeze(1), others], dim=1), dim=1) - true


def info_nce(
    anchor: Float[Tensor, "n dim"],
    positive: Float[Tensor, "n dim"],
    pool: Float[Tensor, "k dim"],
    known: Tensor,
    temperature: float,
) -> Float[Tensor, " n"]:
    """InfoNCE on cosines (van den Oord et al. 2018): smallest where anchor and positive have cosine 1 and the pool is far.

    known: [n, k] pool nodes that are the anchor itself or alike to it; they do not repel.
    """
    anchor, positive, pool = normalized(anchor), normalized(positive), normalized(pool)
    return _softmax_loss((anchor * positive).sum(-1) / temperature, anchor @ pool.T / temperature, known)
