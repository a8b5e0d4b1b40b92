"""The losses of a batch, from the embeddings of its nodes alone.

`(1 - contrastive_weight) * link + contrastive_weight * contrastive` (DESIGN.md 4), and for shallow models N3, micro-batch by micro-batch:
summed over these, the parts are the batch's loss, as every weight is 1 / (rows of the whole batch). The isotropy loss is the batch's own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hgt.config import TrainConfig
from hgt.model.model import Decoder, normalized
from hgt.training.batches import Layout, MicroBatch
from hgt.training.sampled_softmax import FILTERED, sampled_softmax_loss

# From where on the isotropy loss presses: well on the sound side of what validation asks for (0.5, and 15 components for 90 %).
_MEAN_COSINE = 0.3
_COMPONENTS = 22
_LEAST_VARIANCE = 1e-3


Losses = dict[str, Tensor]  # scalars on the device: "total", what is minimised, and the parts of it as they are logged


def micro_batch_loss(
    shared: Float[Tensor, "num_shared dim"],
    own: Float[Tensor, "num_own dim"],
    micro: MicroBatch,
    layout: Layout,
    decoder: Decoder,
    config: TrainConfig,
) -> Losses:
    """shared, own: embeddings of `micro.nodes`, those of the pools and the others. Without a contrastive part the link loss is all."""
    sections = own.split(layout.sections[layout.head :])  # one split: each slice's gradient would be a full-size tensor of zeros
    head, tail = sections[0], sections[1]
    link = _link_loss(shared, head, tail, micro, layout, decoder)
    if layout.contrast is None:
        return {"total": link + _n3(head, tail, micro, decoder), "link": link}
    contrast = layout.contrast
    anchor, positive, pool = (sections[s - layout.head] for s in (contrast.anchor, contrast.positive, contrast.pool))
    contrastive = info_nce(anchor, positive, pool, micro.anchor_known, config.contrastive_temperature)
    contrastive = (contrastive * micro.anchor_weight).sum()
    weight = config.contrastive_weight
    total = (1 - weight) * link + weight * contrastive + _n3(head, tail, micro, decoder)
    return {"total": total, "link": link, "contrastive": contrastive}


def isotropy_loss(rows: Float[Tensor, "num_rows dim"], layout: Layout, config: TrainConfig) -> Losses:
    """rows: the embeddings of the nodes in `Layout.directions`."""
    found = anisotropy(rows.split([n for _, n, _ in layout.directions]), [share for _, _, share in layout.directions])
    return {"total": config.isotropy_weight * found, "isotropy": found}


def _n3(head: Tensor, tail: Tensor, micro: MicroBatch, decoder: Decoder) -> Tensor | float:
    """`decoder.n3` times the facts' mean nuclear 3-norm."""
    if not decoder.n3:
        return 0.0
    return decoder.n3 * (decoder.cubes(head, micro.relation, tail) * micro.weight).sum()


def _link_loss(shared: Tensor, head: Tensor, tail: Tensor, micro: MicroBatch, layout: Layout, decoder: Decoder) -> Tensor:
    """Mean over facts and both sides of: -log softmax of the true end among sampled nodes, those left out that are true as well.

    A sampled node of the end's type counts for those that were not sampled, too (`Layout.log_weights`): so the sum estimates that of the
    softmax over all nodes of the type (Bengio & Senecal 2003; Jean et al. 2015). Without it a true end that outscores the sampled ones
    learns no more, though of 20,000 nodes some 40 may still rank before it (20,000 / 512).
    """
    tail_query = decoder.tail_query(head, micro.relation)
    head_query = decoder.head_query(tail, micro.relation).index_select(0, micro.head_order)
    true = (tail_query * tail).sum(-1)
    known = (micro.tail_known, micro.head_known)
    return sampled_softmax_loss(tail_query, head_query, true, shared, known, micro.weight, micro.head_order, layout)


def _softmax_loss(true: Tensor, others: Tensor, known: Tensor) -> Tensor:
    """[n] cross-entropy of `true` [n] against `others` [n, k], those that are `known` to be true as well left out."""
    others = others.masked_fill(known, FILTERED)
    return torch.logsumexp(torch.cat([true.unsqueeze(1), others], dim=1), dim=1) - true


def anisotropy(by_type: Sequence[Float[Tensor, "_ dim"]], shares: Sequence[float]) -> Float[Tensor, ""]:
    """What is too much of the mean cosine and of the concentration on few components: 0 while there are directions enough.

    Where there are few dimensions or rows, fewer components are asked for.
    by_type, shares: as `concentration` takes them
    """
    cosine, concentrated = concentration(by_type, shares)
    components = min(_COMPONENTS, by_type[0].shape[1] / 4, sum(map(len, by_type)) / 4)
    return (cosine - _MEAN_COSINE).clamp_min(0) + (concentrated - 1 / components).clamp_min(0)


def concentration(by_type: Sequence[Float[Tensor, "_ dim"]], shares: Sequence[float]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """(mean cosine, 1 / participation ratio) of all nodes' directions, from a sample of each type's.

    The participation ratio of the directions' covariance, (sum of eigenvalues)^2 / sum of their squares (Gao et al. 2017), is the number
    of components where all of them have the same variance, and less than that of the components for 90 % of it elsewhere.
    by_type: [sampled nodes, dim] of each type; shares: of all nodes
    """
    weight = torch.cat([rows.new_full((len(rows), 1), share / len(rows)) for rows, share in zip(by_type, shares, strict=True)])
    x = torch.cat([normalized(rows) for rows in by_type])
    mean = (weight * x).sum(0)
    cosine = mean.square().sum()
    x = (x - mean) * weight.sqrt()
    products = x @ x.T if len(x) < x.shape[1] else x.T @ x  # their squares have the same sum
    variance = (1 - cosine).clamp_min(_LEAST_VARIANCE)  # in all: of rows of length 1
    return cosine, products.square().sum() / variance.square()


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
