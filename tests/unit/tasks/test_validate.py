"""What MLflow gets of a report: the figures under the names that dashboards know."""

from tasks.validate import _figures

METRICS = {"mrr": 0.5, "hits": {"1": 0.1, "3": 0.2, "10": 0.3}, "chance_mrr": 0.01, "num_ranks": 4}
CHECKS = [
    {"name": "components for 90 % of variance", "value": 69},
    {"name": "typed MRR over chance", "value": None},
]


def test_figures_of_a_report():
    ranking = {
        "typed": METRICS,
        "typed_macro": METRICS | {"mrr": 0.6},
        "all_nodes": METRICS | {"mrr": 0.2},
    }
    ranking["all_nodes_macro"] = METRICS | {"mrr": 0.3}
    pairs = {"micro": {"auroc": 0.9, "auprc": 0.8}, "macro": {"auroc": 0.7, "auprc": 0.6}}
    figures = _figures({"checks": CHECKS, "ranking": ranking, "classification": pairs})
    assert figures["validation/components_for_90_percent_of_variance"] == 69
    mrr = {name: value for name, value in figures.items() if "mrr" in name}
    assert mrr == {
        "test/typed/mrr": 0.5,
        "test/typed/macro_mrr": 0.6,
        "test/all_nodes/mrr": 0.2,
        "test/all_nodes/macro_mrr": 0.3,
    }
    assert figures["test/typed/hits_at_10"] == figures["test/all_nodes/macro_hits_at_10"] == 0.3
    pairs = {name: value for name, value in figures.items() if "/pairs/" in name}
    assert pairs == {
        "test/pairs/micro_auroc": 0.9,
        "test/pairs/micro_auprc": 0.8,
        "test/pairs/macro_auroc": 0.7,
        "test/pairs/macro_auprc": 0.6,
    }


def test_what_was_not_measured_is_not_logged():
    assert _figures({"checks": CHECKS[1:], "ranking": None, "classification": None}) == {}
