"""The losses of a batch, from the embeddings of its nodes alone.

`(1 - contrastive_weight) * link + contrastive_weight * contrastive` (DESIGN.md 4), and for shallow models N3, micro-batch by micro-batch:
summed over these, the parts are the batch's loss, as every weight is 1 / (rows of the whole batch). The isotropy loss is the batch's own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from hgt.batches import Layout, MicroBatch
from hgt.config import TrainConfig
from hgt.model import Decoder, normalized

_FILTERED = -1e30
# From where on the isotropy loss presses: well on the sound side of what validation asks for (0.5, and 15 components for 90 %).
_MEAN_COSINE = 0.3
_COMPONENTS = 22
_LEAST_VARIANCE = 1e-3


Losses = dict[str, Tensor]  # scalars on the device: "total", what is minimised, and the parts of it as they are logged


def micro_batch_loss(
    rows: Float[Tensor, "num_rows dim"], micro: MicroBatch, layout: Layout, decoder: Decoder, config: TrainConfig
) -> Losses:
    """rows: the embeddings of `micro.nodes`. Without a contrastive part the link loss is the whole loss."""
    sections = rows.split(layout.sections)  # one split: each slice's gradient would be a full-size tensor of zeros
    link = _link_loss(sections, micro, layout, decoder)
    if layout.contrast is None:
        return {"total": link + _n3(sections, micro, layout, decoder), "link": link}
    contrast = layout.contrast
    anchor, positive, pool = (sections[s] for s in (contrast.anchor, contrast.positive, contrast.pool))
    contrastive = info_nce(anchor, positive, pool, micro.anchor_known, config.contrastive_temperature)
    contrastive = (contrastive * micro.anchor_weight).sum()
    weight = config.contrastive_weight
    total = (1 - weight) * link + weight * contrastive + _n3(sections, micro, layout, decoder)
    return {"total": total, "link": link, "contrastive": contrastive}


def isotropy_loss(rows: Float[Tensor, "num_rows dim"], layout: Layout, config: TrainConfig) -> Losses:
    """rows: the embeddings of the nodes in `Layout.directions`."""
    found = anisotropy(rows.split([n for _, n, _ in layout.directions]), [share for _, _, share in layout.directions])
    return {"total": config.isotropy_weight * found, "isotropy": found}


def _n3(sections: tuple[Tensor, ...], micro: MicroBatch, layout: Layout, decoder: Decoder) -> Tensor | float:
    """`decoder.n3` times the facts' mean nuclear 3-norm."""
    if not decoder.n3:
        return 0.0
    return decoder.n3 * (decoder.cubes(sections[layout.head], micro.relation, sections[layout.tail]) * micro.weight).sum()


def _link_loss(sections: tuple[Tensor, ...], micro: MicroBatch, layout: Layout, decoder: Decoder) -> Tensor:
    """Mean over facts and both sides of: -log softmax of the true end among sampled nodes, those left out that are true as well.

    A sampled node of the end's type counts for those that were not sampled, too (`Layout.log_weights`): so the sum estimates that of the
    softmax over all nodes of the type (Bengio & Senecal 2003; Jean et al. 2015). Without it a true end that outscores the sampled ones
    learns no more, though of 20,000 nodes some 40 may still rank before it (20,000 / 512).
    """
    head, tail = sections[layout.head], sections[layout.tail]
    tail_query = decoder.tail_query(head, micro.relation)
    head_query = decoder.head_query(tail, micro.relation).index_select(0, micro.head_order)
    true = (tail_query * tail).sum(-1)
    others = torch.cat([sections[pool][:n] for pool, n in layout.others]) if layout.others else None
    order = micro.head_order
    of_tails = _softmax_loss(
        _lowered(true, layout.tail_groups, layout), _among(tail_query, sections, layout.tail_groups, layout, others), micro.tail_known
    )
    of_heads = _softmax_loss(
        _lowered(true.index_select(0, order), layout.head_groups, layout),
        _among(head_query, sections, layout.head_groups, layout, others),
        micro.head_known.index_select(0, order),
    )
    return 0.5 * ((of_tails * micro.weight).sum() + (of_heads * micro.weight.index_select(0, order)).sum())


def _lowered(true: Tensor, groups: tuple[tuple[int, int], ...], layout: Layout) -> Tensor:
    """[num_facts] true ends' scores less the weight of their pools: the same softmax as if all scores of the pools were raised by it."""
    parts = zip(true.split([n for _, n in groups]), groups, strict=True)
    return torch.cat([scores - layout.log_weights[pool] for scores, (pool, _) in parts])


def _among(
    query: Tensor, sections: tuple[Tensor, ...], groups: tuple[tuple[int, int], ...], layout: Layout, others: Tensor | None
) -> Tensor:
    """[num_facts, pool_width + len(others)] scores of each fact's pool, small types padded; of nodes of all types, lowered as `true` is."""
    parts = []
    for q, (pool, _) in zip(query.split([n for _, n in groups]), groups, strict=True):
        scores = functional.pad(q @ sections[pool].T, (0, layout.pool_width - len(sections[pool])))
        parts.append(scores if others is None else torch.cat([scores, (q @ others.T).sub_(layout.log_weights[pool])], 1))
    return torch.cat(parts)


def _softmax_loss(true: Tensor, others: Tensor, known: Tensor) -> Tensor:
    """[n] cross-entropy of `true` [n] against `others` [n, k], those that are `known` to be true as well left out."""
    others = others.masked_fill(known, _FILTERED)
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
