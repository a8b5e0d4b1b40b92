"""Cosines over all pairs, the whole spectrum, and types told apart; each figure against its
definition.
"""

import numpy as np
import pytest
import sklearn.metrics
import torch

from hgt.errors import InputError
from hgt.evaluation import geometry
from hgt.evaluation.geometry import (
    components_for,
    effective_rank,
    mean_pairwise_cosine,
    measure_geometry,
)
from hgt.evaluation.plots import plot_plane


def normal(n, dim, seed=0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def one_type(n):
    return np.full(n, "a")


def brute_force_cosine(vectors):
    v = vectors.double().numpy()
    cosines = [
        (
            0.0
            if not (v[i].any() and v[j].any())
            else v[i] @ v[j] / np.linalg.norm(v[i]) / np.linalg.norm(v[j])
        )
        for i in range(len(v))
        for j in range(i)
    ]
    return np.mean(cosines)


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_mean_cosine_is_over_all_pairs(shift, monkeypatch):
    monkeypatch.setattr(geometry, "_ROWS", 17)  # several blocks
    vectors = normal(60, 5) * torch.rand(60, 1).add(0.1) + shift
    vectors[3] = 0
    assert mean_pairwise_cosine(vectors) == pytest.approx(brute_force_cosine(vectors), abs=1e-12)
    types = np.array(["a", "b", "b"] * 19 + ["a", "b", "lone"])
    measured = measure_geometry(vectors, types, seed=0)
    assert measured.mean_cosine == pytest.approx(brute_force_cosine(vectors), abs=1e-12)
    assert set(measured.mean_cosine_by_type) == {"a", "b"}, "one node has no pair"
    for t, value in measured.mean_cosine_by_type.items():
        assert value == pytest.approx(
            brute_force_cosine(vectors[torch.from_numpy(types == t)]), abs=1e-12
        )


def test_the_spectrum_is_that_of_all_components(monkeypatch):
    monkeypatch.setattr(geometry, "_ROWS", 100)
    vectors = normal(250, 12) * torch.arange(1, 13) + 5
    share = measure_geometry(vectors, one_type(250), seed=0).explained_variance
    expected = (
        np.linalg.svd((vectors.double() - vectors.double().mean(0)).numpy(), compute_uv=False) ** 2
    )
    np.testing.assert_allclose(share, expected / expected.sum(), atol=1e-12)


def test_an_isotropic_gaussian_is_not_collapsed():
    measured = measure_geometry(normal(4_000, 512), one_type(4_000), seed=0)
    assert 300 < measured.components_90 < 460
    assert abs(measured.mean_cosine) < 0.01


def test_noise_of_low_rank_is_seen_as_such():
    measured = measure_geometry(normal(2_000, 4) @ normal(4, 512, seed=1), one_type(2_000), seed=0)
    assert 1 < measured.components_90 <= 4
    assert np.count_nonzero(measured.explained_variance) == 4


@pytest.mark.parametrize("value", [1.0, 0.1, 1 / 3, 1e-20, 7e8])
def test_constant_rows_are_a_collapse(value):
    measured = measure_geometry(torch.full((1_001, 16), value), one_type(1_001), seed=0)
    assert measured.mean_cosine == pytest.approx(1)
    assert measured.components_90 == 0
    assert not measured.explained_variance.any()


def test_zero_rows_give_figures():
    measured = measure_geometry(torch.zeros(5, 4), one_type(5), seed=0)
    assert (measured.mean_cosine, measured.components_90) == (0, 0)


def test_small_differences_far_from_the_origin_are_differences():
    vectors = normal(500, 32).mul(1e-3).add(100)
    measured = measure_geometry(vectors, one_type(500), seed=0)
    assert measured.components_90 > 20
    assert measured.mean_cosine > 0.999


@pytest.mark.parametrize(
    ("share", "wanted", "expected"),
    [([0.5, 0.4, 0.1], 0.9, 2), ([0.5, 0.3, 0.2], 0.9, 3), ([1, 0], 0.9, 1), ([0, 0], 0.9, 0)],
)
def test_components_for(share, wanted, expected):
    assert components_for(np.array(share), wanted) == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_rows_that_are_not_finite_are_counted_and_do_not_spread(value):
    vectors, types = normal(100, 8), np.array(["a", "b"] * 50)
    spoilt = vectors.clone()
    spoilt[4, 2], spoilt[9] = value, value
    kept = np.setdiff1d(np.arange(100), [4, 9])
    got, expected = (
        measure_geometry(spoilt, types, seed=0),
        measure_geometry(vectors[torch.from_numpy(kept)], types[kept], seed=0),
    )
    assert (got.num_not_finite, expected.num_not_finite) == (2, 0)
    assert got.mean_cosine == expected.mean_cosine
    assert got.type_accuracy == expected.type_accuracy
    np.testing.assert_array_equal(got.explained_variance, expected.explained_variance)


def test_a_table_without_finite_rows_is_refused():
    with pytest.raises(InputError, match="Only 1 of 3 embeddings are finite"):
        measure_geometry(
            torch.tensor([[1.0, 2], [float("nan"), 0], [0, float("inf")]]), one_type(3), seed=0
        )


def apart(num_types, per_type, dim=32, distance=3.0):
    centres = normal(num_types, dim, seed=9) * distance
    types = np.repeat([f"t{i}" for i in range(num_types)], per_type)
    return centres.repeat_interleave(per_type, 0) + normal(num_types * per_type, dim), types


def test_types_apart_and_types_mixed_up():
    vectors, types = apart(6, 80)
    measured = measure_geometry(vectors, types, seed=0)
    assert measured.type_accuracy > 0.99
    shuffled = measure_geometry(vectors, np.random.default_rng(0).permutation(types), seed=0)
    assert shuffled.type_accuracy < 0.3
    assert shuffled.plane_type_accuracy < 0.3 < measured.plane_type_accuracy


def test_a_large_type_does_not_carry_the_accuracy():
    """Noise, of which 95 % has one type: guessing that type would be right for 95 % of the nodes,
    and for half of the types.
    """
    types = np.array(["large"] * 950 + ["small"] * 50)
    assert measure_geometry(normal(1_000, 32), types, seed=0).type_accuracy < 0.65


def test_a_type_of_two_nodes_decides_nothing_where_there_are_larger_ones():
    vectors, types = apart(3, 40)
    few, named = (
        torch.cat([vectors, 20 * normal(2, 32, seed=3)]),
        np.concatenate([types, ["tissue", "tissue"]]),
    )
    assert measure_geometry(few, named, seed=0).type_accuracy > 0.99
    assert measure_geometry(few[-4:], named[-4:], seed=0).type_accuracy < 1, (
        "where there are none, it has to do"
    )


def test_a_type_of_one_node_does_not_count_against_the_others():
    vectors, types = apart(3, 40)
    lone = torch.cat([vectors, 20 * normal(4, 32, seed=3)])
    assert (
        measure_geometry(lone, np.concatenate([types, ["u", "v", "w", "x"]]), seed=0).type_accuracy
        > 0.99
    )


def test_accuracy_equals_brute_force():
    vectors, types = apart(4, 25, dim=6, distance=0.8)
    measured = measure_geometry(vectors, types, seed=0)
    v = (vectors - vectors.mean(0)).double().numpy()
    _, _, directions = np.linalg.svd(v, full_matrices=False)

    def accuracy(num_components):
        points = v @ directions[:num_components].T
        distance = np.linalg.norm(points[:, None] - points, axis=2)
        np.fill_diagonal(distance, np.inf)
        right = types[distance.argmin(1)] == types
        return np.mean([right[types == t].mean() for t in np.unique(types)])

    assert measured.type_accuracy == pytest.approx(accuracy(measured.components_90))
    assert measured.plane_type_accuracy == pytest.approx(accuracy(2))
    assert 0.3 < measured.type_accuracy < 0.99


def test_the_sample_is_seeded_and_shared_by_the_types(monkeypatch):
    monkeypatch.setattr(geometry, "_MAX_SAMPLE", 60)
    vectors = normal(520, 8)
    types = np.array(["large"] * 500 + ["small"] * 20)
    first, again, other = (measure_geometry(vectors, types, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.plane, again.plane)
    assert not np.array_equal(first.plane, other.plane)
    assert (first.plane_types == "large").sum() == 30
    assert (first.plane_types == "small").sum() == 20


def test_one_dimension_can_be_measured_and_drawn(tmp_path):
    measured = measure_geometry(normal(30, 1), np.array(["a", "b"] * 15), seed=0)
    assert measured.components_90 == 1
    assert measured.plane.shape == (30, 2)
    plot_plane(measured, tmp_path / "pca.png")
    assert (tmp_path / "pca.png").read_bytes().startswith(b"\x89PNG")


def test_type_names_are_drawn_as_they_are(tmp_path):
    """Not as formulas, which most of these are not, and none is left out of the legend."""
    names = ["drug $x_$", "_own", "a\\b $", "$\\frac$", "line\nbreak"]
    measured = measure_geometry(normal(30, 4), np.array(names * 6), seed=0)
    plot_plane(measured, tmp_path / "names.png")
    assert (tmp_path / "names.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("share", "expected"),
    [([0.25] * 4, 4), ([1, 0, 0], 1), ([0, 0], 0), ([0.5, 0.25, 0.25], 2**1.5)],
)
def test_effective_rank(share, expected):
    assert effective_rank(np.array(share, dtype=float)) == pytest.approx(expected)


def test_the_effective_rank_is_that_of_the_spectrum():
    assert (
        480 < measure_geometry(normal(20_000, 512), one_type(20_000), seed=0).effective_rank < 512
    )
    assert (
        3
        < measure_geometry(
            normal(2_000, 4) @ normal(4, 512, seed=1), one_type(2_000), seed=0
        ).effective_rank
        <= 4
    )
    strong = normal(2_000, 64) * torch.tensor([30.0] + [1.0] * 63)
    assert measure_geometry(strong, one_type(2_000), seed=0).effective_rank < 3


def test_the_silhouette_is_that_of_scikit_learn_in_the_space_of_the_components():
    vectors, types = apart(4, 25, dim=6, distance=0.8)
    measured = measure_geometry(vectors, types, seed=0)
    v = (vectors - vectors.mean(0)).double().numpy()
    _, _, directions = np.linalg.svd(v, full_matrices=False)
    expected = sklearn.metrics.silhouette_score(v @ directions[: measured.components_90].T, types)
    assert measured.silhouette == pytest.approx(expected)
    shuffled = measure_geometry(vectors, np.random.default_rng(0).permutation(types), seed=0)
    assert shuffled.silhouette < 0.02 < measured.silhouette


@pytest.mark.parametrize(
    ("types", "known"), [(["a"] * 6, False), (list("abcdef"), False), (list("aabbcc"), True)]
)
def test_a_silhouette_needs_two_types_and_one_of_two_nodes(types, known):
    assert (measure_geometry(normal(6, 4), np.array(types), seed=0).silhouette is not None) == known


def test_distinct_rows_are_counted_exactly(monkeypatch):
    monkeypatch.setattr(geometry, "_ROWS", 7)  # the same row in several blocks
    vectors = normal(100, 8)
    vectors[50:90] = vectors[:40]
    vectors[0, 0], vectors[50, 0] = 0.0, -0.0  # equal numbers, other bytes
    vectors[99] = vectors[98]
    vectors[99, 3] = torch.nextafter(vectors[98, 3], torch.tensor(9.0))  # unequal numbers
    assert measure_geometry(vectors, one_type(100), seed=0).distinct_share == 0.6
    assert len(np.unique(vectors.numpy() + 0.0, axis=0)) == 60


def test_a_type_of_one_row_and_rows_of_zeros_are_no_duplicates():
    vectors, types = normal(100, 8), np.array(["a"] * 60 + ["b"] * 40)
    vectors[60:] = vectors[60].clone()
    vectors[:10] = 0
    assert measure_geometry(vectors, types, seed=0).distinct_share == 1
    vectors[61, 0] += 1  # no longer one row throughout
    assert measure_geometry(vectors, types, seed=0).distinct_share == pytest.approx(52 / 90)
    assert measure_geometry(torch.ones(100, 8), types, seed=0).distinct_share == 0.01, (
        "nothing else is there"
    )


def test_dead_dimensions_are_told_by_their_variance():
    vectors = normal(2_000, 20) * 5 + 3
    vectors[:, 2] = 7
    vectors[:, 5] = 7 + 0.1 * normal(2_000, 1, seed=1)[:, 0]  # a 2,500th of the variance
    vectors[:, 6] = 7 + 0.5 * normal(2_000, 1, seed=2)[:, 0]  # a 100th
    assert measure_geometry(vectors, one_type(2_000), seed=0).dead_dimensions == 0.1
    assert measure_geometry(torch.full((9, 4), 1 / 3), one_type(9), seed=0).dead_dimensions == 1


def test_the_spread_of_a_type_is_over_the_mean_of_all():
    vectors, types = normal(300, 32), np.repeat(["a", "b", "c"], 100)
    vectors[:100] = vectors[0] + 0.01 * vectors[:100]
    measured = measure_geometry(vectors, types, seed=0)
    spread = {t: 1 - brute_force_cosine(vectors[torch.from_numpy(types == t)]) for t in "abc"}
    for t, value in measured.spread_by_type.items():
        assert value == pytest.approx(spread[t] / np.mean(list(spread.values())), rel=1e-6)
    assert measured.spread_by_type["a"] < 0.001
    for other in (vectors + 50, vectors * torch.linspace(0.1, 90, 300)[:, None]):
        assert measure_geometry(other, types, seed=0).spread_by_type["b"] > 0.3, (
            "neither a shift nor large rows make a type dead"
        )


def test_types_that_are_all_dead_have_no_spread_and_few_nodes_tell_nothing():
    types = np.repeat(["a", "b", "few"], [10, 10, 4])
    assert measure_geometry(torch.full((24, 8), 1 / 3), types, seed=0).spread_by_type == {
        "a": 0,
        "b": 0,
    }


def test_norms():
    vectors = torch.nn.functional.normalize(normal(100, 8), dim=1) * 2
    vectors[0], vectors[1], vectors[2], vectors[3] = (
        0,
        vectors[1] * 0.9e-3,
        vectors[2] * 1.1e-3,
        vectors[3] * 40,
    )
    measured = measure_geometry(vectors, one_type(100), seed=0)
    assert measured.tiny_norms == 0.02
    assert measured.norm_ratio == pytest.approx(40, rel=1e-5)
    nothing = measure_geometry(torch.zeros(5, 4), one_type(5), seed=0)
    assert (nothing.tiny_norms, nothing.norm_ratio) == (1, 1)
    mostly = torch.zeros(9, 4)
    mostly[0] = 1
    assert measure_geometry(mostly, one_type(9), seed=0).tiny_norms == pytest.approx(8 / 9)
