"""The geometry of a table of embeddings: how far apart the vectors are, and in how many directions.

In: vectors and their node types. Out: `Geometry`. Means over pairs are exact and cover all pairs:
the mean of all cosines is (|sum of unit vectors|^2 - n) / (n (n - 1)). The spectrum is that of
the full covariance matrix. Each figure detects one defect and misses the others; the fields say
which.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hgt.errors import InputError
from hgt.seeds import Stream, generator

_ROWS = 8_192  # in float64 at a time: 32 MB of 512 dimensions
_MAX_SAMPLE = 5_000  # nodes in the sample that separates types
# of distances at a time; scikit-learn's own 1 GiB would be more than training takes
_SILHOUETTE_MB = 32
# a dimension with less of the mean dimension's variance is dead: a thirtieth of its standard
# deviation
_DEAD_VARIANCE = 1e-3
_TINY_NORM = 1e-3  # a row with no more of the median norm is near zero
# nodes of a type: fewer can lie together by chance where there are few dimensions
_MIN_FOR_SPREAD = 5


@dataclass(frozen=True)
class Geometry:
    """Figures of a table. All but the first are over the rows that are finite.

    num_not_finite: number of rows with NaN or infinity.
    mean_cosine: over all pairs of nodes.
    mean_cosine_by_type: over the pairs within a type, for types of 2 nodes and more.
    explained_variance: share of the variance of each PCA component, falling.
    components_90: number of components that reach 90 % of the variance; 0 where there is no
        variance.
    effective_rank: exp of the entropy of `explained_variance` (Roy & Vetterli 2007, who take
        singular values); 0 where there is no variance.
    distinct_share: number of different rows / number of rows. Rows of zeros, and types whose rows
        are all equal, have figures of their own. They are left out unless no row remains.
    dead_dimensions: share of dimensions with less than a thousandth of the mean dimension's
        variance.
    spread_by_type: (1 - mean cosine within the type) / mean of the same over the types, for types
        of 5 nodes and more. 0 is a dead type.
    tiny_norms: share of rows whose norm is at most a thousandth of the median norm. The median is
        that of rows that are not zero.
    norm_ratio: the largest norm over that median; 1 where all rows are zero.
    type_accuracy: share of nodes whose nearest neighbour has the same type, in the space of the
        `components_90`. Mean over the types of 2 nodes and more.
    plane_type_accuracy: the same in the plane of the first two components, as a PCA plot shows
        them.
    silhouette: mean over the sample in the space of the `components_90` (Rousseeuw 1987); None
        where there is only one type.
    plane: [sample, 2] the sampled nodes in that plane.
    plane_types: [sample] their types.
    """

    num_not_finite: int
    mean_cosine: float
    mean_cosine_by_type: dict[str, float]
    explained_variance: np.ndarray
    components_90: int
    effective_rank: float
    distinct_share: float
    dead_dimensions: float
    spread_by_type: dict[str, float]
    tiny_norms: float
    norm_ratio: float
    type_accuracy: float | None
    plane_type_accuracy: float | None
    silhouette: float | None
    plane: np.ndarray
    plane_types: np.ndarray


def measure_geometry(
    vectors: Float[Tensor, "num_nodes dim"], types: np.ndarray, seed: int
) -> Geometry:
    """Measure the geometry of a table of embeddings.

    types: [num_nodes] node types as strings.

    Raises InputError when fewer than two rows are finite.
    """
    num_rows = len(vectors)
    vectors, types = _finite_rows(vectors, types)
    spectrum, directions, mean, by_dimension = _principal_components(vectors)
    share = spectrum / spectrum.sum() if spectrum.sum() > 0 else np.zeros_like(spectrum)
    sample = _sample_by_type(types, seed)
    components_90 = components_for(share, 0.9)
    projected = (
        (vectors[torch.from_numpy(sample)].double() - mean) @ directions[:, : max(components_90, 2)]
    ).numpy()
    # one-dimensional embeddings lie on a line in it
    plane = np.pad(projected, ((0, 0), (0, 1)))[:, :2]
    norms = np.concatenate([part.norm(dim=1).numpy() for part in _parts(vectors)])
    tiny_norms, norm_ratio = _norm_figures(norms)
    within = {
        str(t): mean_pairwise_cosine(vectors[torch.from_numpy(types == t)])
        for t in np.unique(types)
        if (types == t).sum() > 1
    }
    return Geometry(
        num_not_finite=num_rows - len(vectors),
        mean_cosine=mean_pairwise_cosine(vectors),
        mean_cosine_by_type=within,
        explained_variance=share,
        components_90=components_90,
        effective_rank=effective_rank(share),
        distinct_share=_distinct_share(vectors, types, norms),
        dead_dimensions=float((by_dimension <= _DEAD_VARIANCE * by_dimension.mean()).mean()),
        spread_by_type=_spreads(
            {t: c for t, c in within.items() if (types == t).sum() >= _MIN_FOR_SPREAD}
        ),
        tiny_norms=tiny_norms,
        norm_ratio=norm_ratio,
        type_accuracy=_type_accuracy(projected, types[sample]),
        plane_type_accuracy=_type_accuracy(plane, types[sample]),
        silhouette=_silhouette(projected, types[sample]),
        plane=plane,
        plane_types=types[sample],
    )


def mean_pairwise_cosine(vectors: Float[Tensor, "n dim"]) -> float:
    """Mean cosine over all pairs of different rows, in float64. A zero row has cosine 0 with every
    row.
    """
    total = torch.zeros(vectors.shape[1], dtype=torch.float64)
    own = 0.0  # a row's cosine with itself: 1, or 0 for a zero row
    for part in _parts(vectors):
        norm = part.norm(dim=1, keepdim=True)
        total += (part / norm.clamp_min(1e-300)).sum(0)
        own += float((norm > 0).sum())
    n = len(vectors)
    return (float(total @ total) - own) / (n * (n - 1))


def components_for(share: np.ndarray, wanted: float) -> int:
    """Number of falling shares whose sum reaches `wanted`; 0 when there is no variance."""
    if not share.any():
        return 0
    return int(np.searchsorted(np.cumsum(share), wanted - 1e-12) + 1)


def effective_rank(share: np.ndarray) -> float:
    """exp(-sum p log p) of shares that sum to 1. It is n for n equal shares, and 0 without
    variance.
    """
    p = share[share > 0]
    return float(np.exp(-(p * np.log(p)).sum())) if len(p) else 0.0


def _norm_figures(norms: np.ndarray) -> tuple[float, float]:
    """Share of rows near zero, and the largest norm over the median."""
    usual = float(np.median(norms[norms > 0])) if norms.any() else 0.0
    return float((norms <= _TINY_NORM * usual).mean()), float(norms.max() / usual) if usual else 1.0


def _distinct_share(vectors: Tensor, types: np.ndarray, norms: np.ndarray) -> float:
    """Share of different rows. Two rows are the same when all their values are. A hash of 64 bits
    compares them, so no second table is sorted.
    """
    # no -0.0
    digests = [
        hashlib.blake2b(row, digest_size=8).digest()
        for part in vectors.split(_ROWS)
        for row in (part + 0.0).numpy()
    ]
    digest = np.frombuffer(b"".join(digests), dtype=np.uint64)
    left_out = norms == 0
    for t in np.unique(types):
        rows = digest[types == t]
        left_out[types == t] |= len(rows) >= _MIN_FOR_SPREAD and bool((rows == rows[0]).all())
    kept = digest if left_out.all() else digest[~left_out]
    return len(np.unique(kept)) / len(kept)


def _spreads(within: dict[str, float]) -> dict[str, float]:
    spread = {t: max(1 - cosine, 0.0) for t, cosine in within.items()}
    mean = float(np.mean(list(spread.values()))) if spread else 0.0
    return {t: value / mean if mean > 1e-9 else 0.0 for t, value in spread.items()}


def _silhouette(points: np.ndarray, types: np.ndarray) -> float | None:
    """Silhouette of the types, from -1 to 1: how much nearer nodes are to their own type than to
    the next one. 0 where types overlap.
    """
    if not 2 <= len(np.unique(types)) < len(points):
        return None
    import sklearn.metrics  # takes 1 s, and most callers only read the figures

    with sklearn.config_context(working_memory=_SILHOUETTE_MB):
        return float(sklearn.metrics.silhouette_score(points, types))


def _finite_rows(vectors: Tensor, types: np.ndarray) -> tuple[Tensor, np.ndarray]:
    finite = torch.isfinite(vectors).all(dim=1)
    if not finite.all():
        vectors, types = vectors[finite], types[finite.numpy()]
    if len(vectors) < 2:
        raise InputError(
            f"Only {len(vectors)} of {len(finite)} embeddings are finite, too few to measure. If a"
            " run made them, train again with a lower learning_rate."
        )
    return vectors, types


def _principal_components(vectors: Tensor) -> tuple[np.ndarray, Tensor, Tensor, np.ndarray]:
    """Variances (all, falling), directions [dim, dim], the mean, and the variance of each
    dimension, in float64.
    """
    mean = torch.zeros(vectors.shape[1], dtype=torch.float64)
    for part in _parts(vectors):
        mean += part.sum(0)
    mean /= len(vectors)
    covariance = torch.zeros(vectors.shape[1], vectors.shape[1], dtype=torch.float64)
    for part in _parts(vectors):
        centred = part - mean
        covariance += centred.T @ centred
    covariance /= len(vectors)
    values, directions = torch.linalg.eigh(covariance)
    values = values.clamp_min(0).flip(0)
    noise = float(values[0]) * 1e-12  # rounding leaves a rank-deficient covariance with tiny values
    return (
        torch.where(values > noise, values, 0.0).numpy(),
        directions.flip(1),
        mean,
        covariance.diagonal().numpy(),
    )


def _parts(vectors: Tensor) -> Iterator[Tensor]:
    for part in vectors.split(_ROWS):
        yield part.double()


def _sample_by_type(types: np.ndarray, seed: int) -> np.ndarray:
    """Places of a seeded sample. No type has more than an equal share of _MAX_SAMPLE."""
    rng = generator(seed, Stream.GEOMETRY_SAMPLE)
    distinct = np.unique(types)
    most = max(_MAX_SAMPLE // len(distinct), 2)
    chosen = []
    for t in distinct:
        places = np.flatnonzero(types == t)
        chosen.append(
            places if len(places) <= most else np.sort(rng.choice(places, most, replace=False))
        )
    return np.concatenate(chosen)


def _type_accuracy(points: np.ndarray, types: np.ndarray) -> float | None:
    """Leave-one-out nearest-neighbour accuracy. It is the mean over the types, so a large type does
    not dominate. None where there is only one type, or where no type has two nodes.
    """
    distinct, counts = np.unique(types, return_counts=True)
    told_apart = distinct[counts >= _MIN_FOR_SPREAD]
    if not len(told_apart):
        told_apart = distinct[counts > 1]  # a type's only node has no neighbour of its type
    if len(distinct) < 2 or not len(told_apart):
        return None
    import sklearn.neighbors

    _, neighbours = sklearn.neighbors.NearestNeighbors(n_neighbors=2).fit(points).kneighbors(points)
    own = np.arange(len(points))
    nearest = np.where(neighbours[:, 0] == own, neighbours[:, 1], neighbours[:, 0])
    same = types[nearest] == types
    return float(np.mean([same[types == t].mean() for t in told_apart]))
