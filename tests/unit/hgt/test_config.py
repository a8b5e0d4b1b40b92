"""Every parameter is declared once, has its intended default, and takes
only what it can mean.
"""

import dataclasses
import hashlib
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hgt.config import RunConfig, StoppingConfig, parameters, parse_bytes
from hgt.errors import InputError, is_disk_full

PARAMETERS = {p.name: p for p in parameters()}
DEFAULTS = {
    "embedding_dim": 512,
    "hidden_dim": 256,
    "num_layers": 3,  # with two, ranks are lower (tests/bench)
    "num_heads": 8,
    "num_epochs": 100,
    "learning_rate": 0.003,  # 0.001 needs more steps for lower ranks
    "device": None,
    "edge_sample_size": 5000,
    "node_batch_size": 2048,
    "accumulation_steps": 4,
    # 0.5 costs more than 5 % of the MRR
    "contrastive_weight": 0.0,
    "similarity_threshold": 0.1,
    "include_node_types": None,
    "val_fraction": 0.05,
    "test_fraction": 0.05,
}
# A value for each parameter that is not its default.
OTHER = {
    **{
        "include_node_types": ["drug", "disease"],
        "limit_nodes": 77,
        "symmetric_relations": ["ppi"],
        "directed_relations": ["Gr>G"],
    },
    **{
        "min_mirrored_share": 0.5,
        "val_fraction": 0.1,
        "test_fraction": 0.2,
        "seed": 7,
        "embedding_dim": 64,
        "hidden_dim": 48,
    },
    **{
        "num_layers": 1,
        "num_heads": 4,
        "dropout": 0.0,
        "input_dropout": 0.1,
        "edge_dropout": 0.2,
        "decoder": "distmult",
        "num_epochs": 5,
    },
    **{"learning_rate": 0.01, "device": "cpu"},
    **{
        "edge_sample_size": 10,
        "node_batch_size": 9,
        "accumulation_steps": 2,
        "min_batches_per_epoch": 1,
        "num_negatives": 3,
    },
    **{
        "isotropy_weight": 0.0,
        "contrastive_weight": 0.5,
        "contrastive_node_type": "drug",
        "contrastive_temperature": 0.5,
        "similarity_threshold": 1.0,
    },
    **{
        "max_grad_norm": 2.0,
        "patience": 1,
        "num_val_edges": 20,
        "checkpoint_minutes": 0.5,
        "max_mean_cosine": 0.9,
    },
    **{
        "min_components_90": 1,
        "min_type_accuracy": 0.1,
        "min_mrr_over_chance": 1.0,
        "required_checks": ["mrr", "silhouette"],
    },
    **{
        "min_effective_rank": 2.0,
        "min_distinct_rows": 0.5,
        "max_dead_dimensions": 1.0,
        "min_type_spread": 0.0,
        "max_tiny_norms": 0.5,
    },
    **{
        "max_norm_ratio": 5.0,
        "min_plane_accuracy_over_chance": 1.0,
        "min_silhouette": 0.2,
        "min_disease_cosine": 0.1,
    },
    **{"max_disease_cosine": 0.9, "min_similarity_correlation": 0.3, "max_untrained_nodes": 1.0},
    **{"mixed_precision": True, "recompute_layers": True, "num_neighbors": 16, "memory": "12.5GiB"},
    **{"split": "disease-holdout", "holdout_relations": ["indication"]},
    **{"baselines": ["distmult"], "baseline_time": 1.0},
    **{"max_shrinks": 0, "fallback": "none", "docker_memory": "8GB"},
    **{
        "average_decay": 0.0,
        "num_other_negatives": 0,
        "rate_decay_epochs": 0,
        "min_rate_decay_steps": 1,
    },
    "softmax_correction": 0.5,
    "weight_decay": 0.1,
}
FREE = {
    *(
        "num_epochs",
        "device",
        "node_batch_size",
        "accumulation_steps",
        "patience",
        "checkpoint_minutes",
        "recompute_layers",
        "memory",
    ),
    *(p.name for p in PARAMETERS.values() if p.group == "validation"),
    *("max_shrinks", "fallback", "docker_memory", "baselines", "baseline_time"),
}


def test_defaults_are_those_of_the_design():
    flat = RunConfig().to_flat()
    assert {name: flat[name] for name in DEFAULTS} == DEFAULTS
    assert all(type(flat[name]) is type(value) for name, value in DEFAULTS.items())
    assert {
        name: list(p.default) if isinstance(p.default, tuple) else p.default
        for name, p in PARAMETERS.items()
    } == flat


def test_the_table_above_has_every_parameter():
    assert set(OTHER) == set(PARAMETERS) == set(RunConfig().to_flat())
    assert all(OTHER[name] != RunConfig().to_flat()[name] for name in OTHER)
    assert all(
        p.help and p.group in {f.name for f in dataclasses.fields(RunConfig)}
        for p in PARAMETERS.values()
    )


@pytest.mark.parametrize("name", OTHER)
def test_every_parameter_round_trips_and_touches_no_other(name):
    config = RunConfig.from_flat({name: OTHER[name]})
    flat = config.to_flat()
    assert flat == RunConfig().to_flat() | {name: OTHER[name]}
    assert RunConfig.from_flat(flat) == config
    assert RunConfig.from_flat(json.loads(json.dumps(flat))) == config


def test_all_at_once_round_trip_through_a_file(tmp_path):
    config = RunConfig.from_flat(OTHER)
    config.save(tmp_path / "config.json")
    assert RunConfig.load(tmp_path / "config.json") == config
    assert config.to_flat() == OTHER


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "{",
        "[1]",
        '{"num_epoch": 1}',
        '{"num_epochs": "1"}',
        '{"learning_rate": NaN}',
        "\udcff",
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path, text):
    path = tmp_path / "config.json"
    if text is not None:
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError):
        RunConfig.load(path)


def test_unknown_names_are_listed_with_the_known_ones():
    said = (
        r"Unknown parameters 'embed_dim' \(did you mean embedding_dim\?\), 'zyx'\. Known are accum"
    )
    with pytest.raises(InputError, match=said):
        RunConfig.from_flat({"zyx": 3, "embed_dim": 4})


WRONG_TYPES = {
    int: [True, False, 1.0, "1", [1], math.nan],
    float: [True, "0.1", [0.1]],
    str: [1, True, ["cpu"], b"cpu"],
    bool: [1, 0, 1.0, "yes", [True]],
}


@pytest.mark.parametrize("name", OTHER)
def test_wrong_types_are_refused(name):
    p = PARAMETERS[name]
    wrong = [[1], [None], 1, True, {"a": 1}] if p.is_list else [*WRONG_TYPES[p.type], {}, ()]
    if not p.optional:
        wrong.append(None)
    for value in wrong:
        with pytest.raises(
            InputError, match=f"Parameter {name} takes {p.type.__name__} values, not "
        ):
            RunConfig.from_flat({name: value})


@pytest.mark.parametrize("name", [p.name for p in PARAMETERS.values() if p.type is float])
def test_nan_infinity_negative_and_huge_numbers_are_refused(name):
    for value in (math.nan, math.inf, -math.inf, -0.01, -1, 10**400):
        with pytest.raises(InputError, match=f"Parameter {name} "):
            RunConfig.from_flat({name: value})


@pytest.mark.parametrize("name", [p.name for p in PARAMETERS.values() if p.type is int])
def test_counts_have_a_least_value(name):
    for value in (
        (-1, -(10**30))
        if name in ("seed", "max_shrinks", "num_other_negatives", "rate_decay_epochs")
        else (0, -1)
    ):
        with pytest.raises(InputError, match=f"Parameter {name} must be "):
            RunConfig.from_flat({name: value})


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("dropout", [0, 0.99], [1, 1.5]),
        ("input_dropout", [0, 0.99], [1, 1.5]),
        ("edge_dropout", [0, 0.99], [1, 1.5]),
        ("average_decay", [0, 0.999], [1, 1.5]),
        ("val_fraction", [0.4, 1e-9], [0, 0.41, 1]),
        ("test_fraction", [0.4], [0, 0.41]),
        ("learning_rate", [1e-9, 1], [0]),
        ("contrastive_temperature", [3], [0]),
        ("max_grad_norm", [0.1], [0]),
        ("checkpoint_minutes", [0.01], [0]),
        ("contrastive_weight", [0, 1], [1.01]),
        ("isotropy_weight", [0, 100], [-0.01]),
        ("weight_decay", [0, 100], [-0.01]),
        ("similarity_threshold", [0, 1], [1.01]),
        ("min_mirrored_share", [0, 1], [1.01]),
        ("max_mean_cosine", [0, 1], [1.01]),
        ("min_type_accuracy", [0, 1], [1.01]),
        (
            "required_checks",
            [["mrr"], ["finite", "untrained_nodes"]],
            [["mmr"], ["finite", ""], []],
        ),
        ("min_effective_rank", [0, 500], [-1]),
        ("max_norm_ratio", [0, 1e9], [-1]),
        ("min_disease_cosine", [0, 0.8], [1.01]),
        ("max_disease_cosine", [0.5, 1], [1.01]),
        ("min_mrr_over_chance", [0, 100], [-1]),
        ("num_layers", [1, 100], [101, 10**12]),
        ("seed", [0, 2**31 - 1], [2**31]),
        ("limit_nodes", [1, None], [0]),
        ("decoder", ["distmult", "complex"], ["transe", ""]),
        ("fallback", ["docker", "cpu", "none"], ["mps", ""]),
        ("docker_memory", ["8GB", None], ["0GB", "much", "8"]),
        ("device", ["mps", "cuda", "cpu", "docker-cpu", None], ["gpu", "CUDA", ""]),
        ("baseline_time", [0.01, 1.0, 10.0], [0.0, 10.1]),
        (
            "baselines",
            [["none"], ["degree"], ["complex", "random"]],
            [[], ["degree", "degree"], ["none", "random"], ["transe"]],
        ),
        (
            "split",
            ["random", "disease-holdout", "gene/protein-holdout"],
            ["", "-holdout", "disease", "Random", "holdout"],
        ),
        (
            "memory",
            ["16GB", "12.5 GiB", "900m", "1T", "1000000", None],
            ["16", "123", "", "GB", "-1GB", "0GB", "16GB!", "1e3", "16XB"],
        ),
    ],
)
def test_the_edges_of_each_range(name, good, bad):
    for value in good:
        assert RunConfig.from_flat({name: value}).to_flat()[name] == value
    for value in bad:
        with pytest.raises(InputError, match=f"Parameter {name} "):
            RunConfig.from_flat({name: value})


@pytest.mark.parametrize(
    ("text", "size"),
    [("16GB", 16 * 10**9), ("1GiB", 2**30), ("512 mib", 2**29), ("2k", 2000), ("7", 7)],
)
def test_sizes_are_read_as_they_are_written(text, size):
    assert parse_bytes(text) == size


def test_integers_become_floats_where_floats_are_due():
    assert type(RunConfig.from_flat({"learning_rate": 1}).optimizer.learning_rate) is float


def test_combinations_that_cannot_be():
    with pytest.raises(InputError, match="hidden_dim 250 must be a multiple of num_heads 8"):
        RunConfig.from_flat({"hidden_dim": 250})
    with pytest.raises(InputError, match="even embedding_dim, not 63"):
        RunConfig.from_flat({"embedding_dim": 63, "decoder": "complex"})
    with pytest.raises(
        InputError,
        match=(
            r"complex baseline needs an even embedding_dim, not 63\. Give baselines without complex"
        ),
    ):
        RunConfig.from_flat({"embedding_dim": 63, "decoder": "distmult"})
    RunConfig.from_flat(
        {"embedding_dim": 63, "decoder": "distmult", "baselines": ["degree", "distmult"]}
    )
    with pytest.raises(
        InputError, match=r"min_disease_cosine 0\.9 exceeds max_disease_cosine 0\.8"
    ):
        RunConfig.from_flat({"min_disease_cosine": 0.9})
    with pytest.raises(InputError, match="ppi cannot be both"):
        RunConfig.from_flat({"symmetric_relations": ["ppi", "x"], "directed_relations": ["ppi"]})
    with pytest.raises(
        InputError, match="Parameter num_epochs must be between 1 and 1,000,000, not 0"
    ):
        RunConfig(stopping=StoppingConfig(num_epochs=0))


def test_the_fingerprint_ignores_only_what_does_not_change_the_result():
    assert {p.name for p in PARAMETERS.values() if not p.changes_result} == FREE
    base = RunConfig().fingerprint()
    changed = {
        name
        for name, value in OTHER.items()
        if RunConfig.from_flat({name: value}).fingerprint() != base
    }
    assert changed == set(OTHER) - FREE
    assert RunConfig.from_flat({name: OTHER[name] for name in FREE}).fingerprint() == base


# A change of one of these stops every run that exists: its checkpoints carry the fingerprint, its
# folder the file. Only a new parameter may change them.
FINGERPRINTS = {"default": "b27383def044cf35", "other": "ba6da6521a23039c"}
FILES = {"default": "1190fd6747c2fc8e", "other": "bd49a87f39cf53d8"}
FILE_ORDER = """
    include_node_types limit_nodes symmetric_relations directed_relations min_mirrored_share
    val_fraction test_fraction seed split holdout_relations embedding_dim hidden_dim num_layers
    num_heads dropout input_dropout edge_dropout mixed_precision decoder num_epochs learning_rate
    rate_decay_epochs min_rate_decay_steps weight_decay average_decay device edge_sample_size
    node_batch_size accumulation_steps recompute_layers num_neighbors memory max_shrinks fallback
    docker_memory min_batches_per_epoch num_negatives softmax_correction num_other_negatives
    contrastive_weight isotropy_weight contrastive_node_type contrastive_temperature
    similarity_threshold max_grad_norm patience num_val_edges checkpoint_minutes baselines
    baseline_time required_checks max_mean_cosine min_components_90 min_effective_rank
    min_distinct_rows max_dead_dimensions min_type_spread max_tiny_norms max_norm_ratio
    min_type_accuracy min_plane_accuracy_over_chance min_silhouette min_disease_cosine
    max_disease_cosine min_similarity_correlation max_untrained_nodes min_mrr_over_chance
"""


@pytest.mark.parametrize("which", FINGERPRINTS)
def test_fingerprints_and_files_of_existing_runs_stay(which, tmp_path):
    config = RunConfig.from_flat({"default": {}, "other": OTHER}[which])
    assert config.fingerprint() == FINGERPRINTS[which]
    config.save(tmp_path / "config.json")
    written = hashlib.sha256((tmp_path / "config.json").read_bytes()).hexdigest()
    assert written[:16] == FILES[which]


def test_the_order_of_the_parameters_stays():
    assert [p.name for p in parameters()] == list(RunConfig().to_flat()) == FILE_ORDER.split()


def test_the_configuration_cannot_be_changed_afterwards():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().stopping.num_epochs = 3


ANYTHING = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.lists(st.integers() | st.text(max_size=3), max_size=2)
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(values=st.dictionaries(st.sampled_from([*PARAMETERS, "other"]), ANYTHING, max_size=2))
def test_any_values_are_taken_or_refused(values):
    try:
        config = RunConfig.from_flat(values)
    except InputError:
        return
    flat = config.to_flat()
    assert RunConfig.from_flat(json.loads(json.dumps(flat, allow_nan=False))) == config
    for name, value in values.items():
        assert flat[name] == value or [value] == flat[name]


def test_a_full_disk_leaves_the_configuration_that_was_there(tmp_path, room):
    path = tmp_path / "config.json"
    RunConfig().save(path)
    room(100)
    with pytest.raises(OSError) as caught:
        RunConfig.from_flat({"num_epochs": 3}).save(path)
    room(None)
    assert is_disk_full(caught.value)
    assert RunConfig.load(path) == RunConfig()
