"""Any Unicode name, as MLflow's own validators take it, and back."""

import posixpath

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mlflow.utils import validation

from tasks.tracking.tracked_name import MAX_NAME, MAX_TAG, real_name, tracked_name, tracked_text

NAMES = st.one_of(
    st.text(),
    st.text(alphabet="_x0123456789ABCDEFH/. $"),  # what looks like an escape or a path
    st.lists(st.sampled_from(["..", ".", "", "a", "_x", "_", "x", "_x24_", "$", "_xH"])).map(
        "/".join
    ),
)
SETTINGS = settings(max_examples=150, deadline=None)


@SETTINGS
@given(NAMES)
@example("Amino Acid, Peptide, or Protein")
@example("$ { } | ( ) & , ; \U0001f9ec \n \0 ‮")
@example("_x")
@example("_x$")
@example("$x$")
@example("\ud800")
@example("")
def test_mlflow_takes_every_name_and_it_comes_back(name):
    for given_name in (name, f"validation/mean_cosine_among_{name}_nodes"):
        tracked = tracked_name(given_name)
        validation._validate_metric_name(tracked)
        validation._validate_tag_name(tracked)
        validation._validate_param_name(tracked)
        assert len(tracked) <= MAX_NAME
        assert ":" not in tracked, "which Windows does not take"
        if "_xH" not in tracked:
            assert real_name(tracked) == given_name


@SETTINGS
@given(st.lists(NAMES, unique=True, max_size=5), st.sampled_from(["", "y" * 240, "y," * 2_500]))
def test_no_two_names_become_one(names, before):
    tracked = {tracked_name(before + name) for name in names}
    assert len(tracked) == len(names)
    for name in tracked:
        validation._validate_metric_name(name)
        assert len(name) <= MAX_NAME


@pytest.mark.parametrize(
    "name",
    [
        "validation/mean_cosine_among_disease_nodes",
        "test/typed/mrr",
        "baseline/complex/typed_mrr",
        "a b",
    ],
)
def test_plain_names_stay(name):
    assert tracked_name(name) == name


def test_a_name_of_5000_characters_keeps_its_beginning():
    tracked = tracked_name("deep/" * 1_000)
    assert tracked.startswith("deep_x2F_deep")
    assert posixpath.normpath(tracked) == tracked
    assert tracked != tracked_name("deep/" * 1_000 + "a")


@given(st.text(alphabet=st.characters(categories=["Cs", "Cc", "L"])))
def test_a_text_fits_every_database(text):
    clean = tracked_text(text, 20)
    assert len(clean) <= 20
    assert "\0" not in clean
    clean.encode()
    assert tracked_text("plain,$", MAX_TAG) == "plain,$"
