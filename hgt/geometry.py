"""The geometry of an embedding table: how far apart the vectors are, and in how many directions.

In: vectors and their node types. Out: `Geometry`. Means over pairs are exact, over all pairs: the mean of all cosines is
(|sum of unit vectors|^2 - n) / (n (n - 1)). The spectrum is that of the full covariance matrix, all components of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import sklearn.neighbors
import torch
from jaxtyping import Float
from torch import Tensor

from hgt.errors import InputError

_ROWS = 8_192  # in float64 at a time: 32 MB of 512 dimensions
_MAX_SAMPLE = 5_000  # nodes on which types are told apart


@dataclass(frozen=True)
class Geometry:
    """num_not_finite: rows with NaN or infinity; every other figure is over the finite rows
    mean_cosine: over all pairs of nodes; mean_cosine_by_type: over pairs within a type (types of 2 nodes and more)
    explained_variance: share of the variance per PCA component, falling
    components_90: how many of them reach 90 % of the variance (0 where there is none)
    type_accuracy: share of nodes whose nearest neighbour is of their type, in the space of those `components_90`, mean over types
        (of 2 nodes and more)
    plane_type_accuracy: the same in the plane of the first two components, as a PCA plot shows them
    plane: [sample, 2] the sampled nodes in that plane; plane_types: their types
    """

    num_not_finite: int
    mean_cosine: float
    mean_cosine_by_type: dict[str, float]
    explained_variance: np.ndarray
    components_90: int
    type_accuracy: float
    plane_type_accuracy: float
    plane: np.ndarray
    plane_types: np.ndarray


def measure_geometry(vectors: Float[Tensor, "num_nodes dim"], types: np.ndarray, seed: int) -> Geometry:
    """types: [num_nodes] strings. Raises InputError when fewer than two rows are finite."""
    finite = torch.isfinite(vectors).all(dim=1)
    num_not_finite = int((~finite).sum())
    if num_not_finite:
        vectors, types = vectors[finite], types[finite.numpy()]
    if len(vectors) < 2:
        raise InputError(
            f"Only {len(vectors)} of {len(finite)} embeddings are finite, too few to measure. Train again with a lower learning_rate."
        )
    variances, directions, mean = _principal_components(vectors)
    share = variances / variances.sum() if variances.sum() > 0 else np.zeros_like(variances)
    sample = _sample_by_type(types, seed)
    components_90 = components_for(share, 0.9)
    projected = ((vectors[torch.from_numpy(sample)].double() - mean) @ directions[:, : max(components_90, 2)]).numpy()
    plane = np.pad(projected, ((0, 0), (0, 1)))[:, :2]  # one-dimensional embeddings lie on a line in it
    return Geometry(
        num_not_finite=num_not_finite,
        mean_cosine=mean_pairwise_cosine(vectors),
        mean_cosine_by_type={
            str(t): mean_pairwise_cosine(vectors[torch.from_numpy(types == t)]) for t in np.unique(types) if (types == t).sum() > 1
        },
        explained_variance=share,
        components_90=components_90,
        type_accuracy=_type_accuracy(projected, types[sample]),
        plane_type_accuracy=_type_accuracy(plane, types[sample]),
        plane=plane,
        plane_types=types[sample],
    )


def mean_pairwise_cosine(vectors: Float[Tensor, "n dim"]) -> float:
    """Mean cosine over all pairs of different rows, in float64. A zero row has cosine 0 with every other."""
    total = torch.zeros(vectors.shape[1], dtype=torch.float64)
    own = 0.0  # a row's cosine with itself: 1, or 0 for a zero row
    for part in _parts(vectors):
        norm = part.norm(dim=1, keepdim=True)
        total += (part / norm.clamp_min(1e-300)).sum(0)
        own += float((norm > 0).sum())
    n = len(vectors)
    return (float(total @ total) - own) / (n * (n - 1))


def components_for(share: np.ndarray, wanted: float) -> int:
    """How many of the falling shares reach `wanted` together; 0 when there is no variance at all."""
    if not share.any():
        return 0
    return int(np.searchsorted(np.cumsum(share), wanted - 1e-12) + 1)


def _principal_components(vectors: Tensor) -> tuple[np.ndarray, Tensor, Tensor]:
    """Variances (falling, all of them), directions [dim, dim] and the mean, from the covariance in float64."""
    mean = torch.zeros(vectors.shape[1], dtype=torch.float64)
    for part in _parts(vectors):
        mean += part.sum(0)
    mean /= len(vectors)
    covariance = torch.zeros(vectors.shape[1], vectors.shape[1], dtype=torch.float64)
    for part in _parts(vectors):
        centred = part - mean
        covariance += centred.T @ centred
    values, directions = torch.linalg.eigh(covariance / len(vectors))
    values = values.clamp_min(0).flip(0)
    noise = float(values[0]) * 1e-12  # rounding leaves a rank-deficient covariance with tiny values
    return torch.where(values > noise, values, 0.0).numpy(), directions.flip(1), mean


def _parts(vectors: Tensor) -> Iterator[Tensor]:
    for part in vectors.split(_ROWS):
        yield part.double()


def _sample_by_type(types: np.ndarray, seed: int) -> np.ndarray:
    """Places of a seeded sample: every type keeps at most an equal share of _MAX_SAMPLE."""
    rng = np.random.default_rng([seed, 4])
    distinct = np.unique(types)
    most = max(_MAX_SAMPLE // len(distinct), 2)
    chosen = []
    for t in distinct:
        places = np.flatnonzero(types == t)
        chosen.append(places if len(places) <= most else np.sort(rng.choice(places, most, replace=False)))
    return np.concatenate(chosen)


def _type_accuracy(points: np.ndarray, types: np.ndarray) -> float:
    """Leave-one-out nearest-neighbour accuracy, mean over the types (so that a large type cannot carry it)."""
    distinct, counts = np.unique(types, return_counts=True)
    told_apart = distinct[counts > 1]  # a type's only node has no neighbour of its type
    if len(distinct) < 2 or not len(told_apart):
        return 1.0
    _, neighbours = sklearn.neighbors.NearestNeighbors(n_neighbors=2).fit(points).kneighbors(points)
    own = np.arange(len(points))
    nearest = np.where(neighbours[:, 0] == own, neighbours[:, 1], neighbours[:, 0])
    same = types[nearest] == types
    return float(np.mean([same[types == t].mean() for t in told_apart]))
