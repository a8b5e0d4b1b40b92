"""The served model takes ids as tables hold them: text, integers, and floats once a column had a
missing value.
"""

import pandas as pd
import pytest
import torch
from mlflow.models.utils import _enforce_schema

from hgt.embeddings.predictor import Predictor
from hgt.embeddings.table import Embeddings
from hgt.graph.facts import EdgeType
from hgt.graph.knowledge_graph import KnowledgeGraph
from tasks.tracking.model_files import SIGNATURE
from tasks.tracking.served_model import TailPredictor

TREATS: EdgeType = ("drug", "treats", "disease")


@pytest.fixture(scope="module")
def served():
    ids = {
        t: pd.Series([str(i) for i in range(1, 9)], dtype=object).to_numpy()
        for t in ("disease", "drug")
    }
    pairs = torch.tensor([[0, 1, 2], [3, 4, 5]])
    graph = KnowledgeGraph(ids, {t: "the " + ids[t] for t in ids}, {TREATS: pairs})
    vectors = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    served = TailPredictor()
    served.predictor = Predictor(
        Embeddings(graph.node_table(), vectors, (TREATS,), torch.ones(1, 4), {}), graph
    )
    return served


@pytest.mark.parametrize("kind", ["int64", "int32", "uint8", "float64", "Int64", "object"])
def test_ids_may_be_integers(served, kind):
    """As MLflow lets them through, which refuses a column of integers where strings are due."""
    asked = {"relation": ["treats"] * 2, "head_type": ["drug"] * 2}
    numbers = pd.DataFrame({"head": pd.Series([2, 7], dtype=kind), **asked})
    checked = _enforce_schema(numbers, SIGNATURE.inputs)
    expected = served.predict(None, pd.DataFrame({"head": ["2", "7"], **asked}))
    pd.testing.assert_frame_equal(served.predict(None, checked), expected)
    assert len(expected) == 7 + 8


def test_texts_and_integers_may_stand_in_one_column(served):
    mixed = pd.DataFrame(
        {"head": ["the 3", 3], "relation": ["treats"] * 2, "head_type": ["drug"] * 2}
    )
    answer = served.predict(None, _enforce_schema(mixed, SIGNATURE.inputs))
    one, other = (
        answer[answer["query"] == n].drop(columns="query").reset_index(drop=True) for n in (0, 1)
    )
    pd.testing.assert_frame_equal(one, other)
