"""A rejection says why and what to do."""

import pytest

from tasks.rejection import rejection, with_rejection

SEE = "README.md, section Troubleshooting, lists causes and remedies."


def check(key, name, value, threshold, passed=False, required=True):
    return {
        "key": key,
        "name": name,
        "value": value,
        "threshold": threshold,
        "passed": passed,
        "required": required,
    }


MRR = check("mrr", "typed MRR over chance", 1.5049, ">= 3 x")
COSINE = check("mean_cosine", "mean pairwise cosine", 0.91, "< 0.5")


def test_too_few_epochs_are_named_with_the_default():
    assert rejection([MRR], 3) == [
        "REJECTED: held-out facts rank 1.5 times better than chance, 3 times is required.",
        "The run trained 3 epochs, the default is 100: train longer (--num-epochs).",
    ]
    assert "trained 1 epoch, " in rejection([MRR], 1)[-1]
    assert rejection([MRR], 100)[-1] == SEE
    assert rejection([MRR])[-1] == SEE, "a table has no epochs"


def test_a_value_just_below_the_limit_is_not_rounded_up_to_it():
    assert "rank 2.99 times" in rejection([MRR | {"value": 2.9999}], 3)[0]


@pytest.mark.parametrize(
    ("failed", "reason"),
    [
        (COSINE, "mean pairwise cosine is 0.9100, less than 0.5 is required"),
        (
            check("components_90", "components for 90 % of variance", 3, ">= 15"),
            "components for 90 % of variance is 3, at least 15 is required",
        ),
        (check("finite", "rows not finite", 2, "= 0"), "rows not finite is 2, 0 is required"),
        (
            check("disease_cosine", "mean cosine among disease nodes", 0.9, "0.1 - 0.4"),
            "mean cosine among disease nodes is 0.9000, 0.1 - 0.4 is required",
        ),
        (MRR | {"value": None}, "no facts were held out, so none could be ranked"),
    ],
)
def test_the_reason_has_value_and_limit(failed, reason):
    assert rejection([failed], 3)[0] == f"REJECTED: {reason}."


def test_what_longer_training_does_not_change_has_its_own_remedy():
    assert "raise --test-fraction" in rejection([MRR | {"value": None}], 3)[-1]
    untrained = check("untrained_nodes", "nodes without training facts", 40, "<= 10")
    assert "lower --val-fraction" in rejection([untrained], 3)[-1]
    assert "train longer" in rejection([untrained, COSINE], 3)[-1]
    assert rejection([check("finite", "rows not finite", 2, "= 0")], 3)[-1] == SEE


def test_checks_that_pass_or_advise_reject_nothing():
    assert rejection([MRR | {"passed": True}, COSINE | {"required": False}], 3) == []


def test_the_sentences_replace_the_verdict_in_the_table():
    assert with_rejection("a\n\nREJECTED: x\n", ["y.", "z."]) == "a\n\ny.\nz."
    assert with_rejection("a\n\nACCEPTED\n", []) == "a\n\nACCEPTED\n"
