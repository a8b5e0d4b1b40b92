"""The losses of a batch, from the embeddings of its nodes alone.

In: embeddings, a micro-batch, a decoder. Out: `(1 - contrastive_weight) * link + contrastive_weight
* contrastive`, and N3 where it has a weight. Every weight is 1 / (rows of the whole batch), so the
parts of all micro-batches add up to the batch's loss. The isotropy loss is computed once a batch.
It knows no encoder.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from hgt.config import LossConfig
from hgt.model.decoders import Decoder
from hgt.training.batch import MicroBatch
from hgt.training.layout import Layout
from hgt.training.sampled_softmax import FILTERED, sampled_softmax_loss

# The isotropy loss is 0 up to this mean cosine and from this many components on. Validation rejects
# later: from a mean cosine of 0.5 on, and with fewer than 15 components for 90 % of the variance.
_MEAN_COSINE = 0.3
_COMPONENTS = 22
_LEAST_VARIANCE = 1e-3


Losses = dict[str, Tensor]  # scalars on the device: "total" is minimised, its parts are logged


def micro_batch_loss(
    shared: Float[Tensor, "num_shared dim"],
    own: Float[Tensor, "num_own dim"],
    micro: MicroBatch,
    layout: Layout,
    decoder: Decoder,
    config: LossConfig,
    n3: float = 0.0,
) -> Losses:
    """The losses of one micro-batch. Without a contrastive part the link loss is all.

    shared: embeddings of the pools, the same for all parts of a batch.
    own: embeddings of the other nodes in `micro.nodes`.
    n3: weight of the facts' nuclear 3-norm.
    """
    # One split: the gradient of each slice would be a full-size tensor of zeros.
    sections = own.split(layout.sections[layout.head :])
    head, tail = sections[0], sections[1]
    link = _link_loss(shared, head, tail, micro, layout, decoder)
    penalty = n3 * _n3(head, tail, micro, decoder) if n3 else 0.0
    if layout.contrast is None:
        return {"total": link + penalty, "link": link}
    contrast = layout.contrast
    places = (contrast.anchor, contrast.positive, contrast.pool)
    anchor, positive, pool = (sections[place - layout.head] for place in places)
    temperature = config.contrastive_temperature
    contrastive = info_nce(anchor, positive, pool, micro.anchor_known, temperature)
    contrastive = (contrastive * micro.anchor_weight).sum()
    weight = config.contrastive_weight
    total = (1 - weight) * link + weight * contrastive + penalty
    return {"total": total, "link": link, "contrastive": contrastive}


def isotropy_loss(
    rows: Float[Tensor, "num_rows dim"], layout: Layout, config: LossConfig
) -> Losses:
    """rows: the embeddings of the nodes in `Layout.directions`."""
    sizes, shares = ([part[i] for part in layout.directions] for i in (1, 2))
    found = anisotropy(rows.split(sizes), shares)
    return {"total": config.isotropy_weight * found, "isotropy": found}


def _n3(head: Tensor, tail: Tensor, micro: MicroBatch, decoder: Decoder) -> Tensor:
    """The facts' mean nuclear 3-norm (Lacroix et al. 2018).

    A fact's norm is the sum of |x|^3 over its three vectors. Complex numbers count by their
    modulus. It holds back embeddings that nothing else limits.
    """
    relation = decoder.relation_vectors().index_select(0, micro.relation)
    vectors = (head, relation, tail)
    cubes = torch.stack([decoder.squared_moduli(x).pow(1.5).sum(-1) for x in vectors]).sum(0)
    return (cubes * micro.weight).sum()


def _link_loss(
    shared: Tensor,
    head: Tensor,
    tail: Tensor,
    micro: MicroBatch,
    layout: Layout,
    decoder: Decoder,
) -> Tensor:
    """Mean over facts and both sides of -log softmax of the true end among sampled nodes.

    Sampled nodes that make a true fact are left out. A sampled node of the end's type counts for
    those that were not sampled, too (`Layout.log_weights`), so that the sum estimates that of the
    softmax over all nodes of the type (Bengio & Senecal 2003; Jean et al. 2015). Without it a true
    end that outscores the sampled ones learns no more, though of 20,000 nodes some 40 may still
    rank before it (20,000 / 512).
    """
    tail_query = decoder.tail_query(head, micro.relation)
    head_query = decoder.head_query(tail, micro.relation).index_select(0, micro.head_order)
    true = (tail_query * tail).sum(-1)
    known = (micro.tail_known, micro.head_known)
    return sampled_softmax_loss(
        tail_query, head_query, true, shared, known, micro.weight, micro.head_order, layout
    )


def _softmax_loss(true: Tensor, others: Tensor, known: Tensor) -> Tensor:
    """[n] cross-entropy of `true` [n] against those of `others` [n, k] that are not `known`."""
    others = others.masked_fill(known, FILTERED)
    return torch.logsumexp(torch.cat([true.unsqueeze(1), others], dim=1), dim=1) - true


def anisotropy(
    by_type: Sequence[Float[Tensor, "_ dim"]], shares: Sequence[float]
) -> Float[Tensor, ""]:
    """How far the mean cosine and the concentration on few components exceed their limits.

    0 for healthy embeddings. With few dimensions or rows, fewer components are required.

    by_type, shares: as `concentration` takes them.
    """
    cosine, concentrated = concentration(by_type, shares)
    components = min(_COMPONENTS, by_type[0].shape[1] / 4, sum(map(len, by_type)) / 4)
    return (cosine - _MEAN_COSINE).clamp_min(0) + (concentrated - 1 / components).clamp_min(0)


def concentration(
    by_type: Sequence[Float[Tensor, "_ dim"]], shares: Sequence[float]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """(mean cosine, 1 / participation ratio) of all nodes' directions, from samples.

    The participation ratio of the directions' covariance, (sum of eigenvalues)^2 / sum of their
    squares (Gao et al. 2017), is the number of components where all of them have the same variance.
    Elsewhere it is less than the number of components for 90 % of the variance.

    by_type: [sampled nodes, dim] of each type.
    shares: of all nodes.
    """
    pairs = list(zip(by_type, shares, strict=True))
    weight = torch.cat([rows.new_full((len(rows), 1), share / len(rows)) for rows, share in pairs])
    x = torch.cat([_normalized(rows) for rows in by_type])
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
    """InfoNCE on cosines (van den Oord et al. 2018).

    Smallest where anchor and positive have cosine 1 and the pool is far.

    known: [n, k] True for pool nodes that are the anchor itself or alike to it; they do not repel.
    """
    anchor, positive, pool = (_normalized(x) for x in (anchor, positive, pool))
    true = (anchor * positive).sum(-1) / temperature
    return _softmax_loss(true, anchor @ pool.T / temperature, known)


def _normalized(x: Tensor) -> Tensor:
    """Rows of length 1, for cosines."""
    return functional.normalize(x, dim=-1)
