"""The model code of a registered version: MLflow copies this file and runs it when it loads the
version ("models from code").

    model = mlflow.pyfunc.load_model("models:/hgt-embeddings-<graph>@champion")
    model.predict(pd.DataFrame({"head": ["DB00945"], "relation": ["indication"]}), params={"k": 10})

Needs only `hgt` of this project. The version contains a copy of it.
"""

from __future__ import annotations

import numbers
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext

from hgt.embeddings.predictor import COLUMNS, Predictor
from hgt.errors import InputError, quoted

QUERY = "query"  # the input row that an answer row belongs to


class TailPredictor(PythonModel):
    """Predicts the tails of (head, relation).

    Columns of the input:

    head: id (a string or an integer) or name
    relation: name of the relation
    head_type: node type, if the head is not unique

    See `Predictor.tails`.
    """

    def load_context(self, context: PythonModelContext) -> None:
        self.predictor = Predictor.load(
            Path(context.artifacts["embeddings"]), Path(context.artifacts["graph"])
        )

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """The answers of `Predictor.tails` for each input row, with the row's number as `query`.

        context: unused
        model_input: the queries; no rows give no rows
        params: k and include_known; None keeps the default

        Raises the InputError of `Predictor.tails`, with the number of the row.
        """
        given = {name: value for name, value in (params or {}).items() if value is not None}
        answers = [
            self._tails(number, row, given)
            for number, row in enumerate(model_input.to_dict("records"))
        ]
        return (
            pd.concat(answers, ignore_index=True)
            if answers
            else pd.DataFrame(columns=[QUERY, *COLUMNS])
        )

    def _tails(self, number: int, row: dict[Hashable, Any], given: dict[str, Any]) -> pd.DataFrame:
        """Answer one row. MLflow does not check it: values may be numbers, lists or missing."""
        asked = {name: row[name] for name in ("head", "relation")}
        if not _is_missing(row.get("head_type")):
            asked["head_type"] = row["head_type"]
        try:
            texts = {name: _text(name, value) for name, value in asked.items()}
            tails = self.predictor.tails(**texts, **given)
        except InputError as error:
            raise InputError(f"query {number}: {error}") from error
        tails.insert(0, QUERY, number)
        return tails


def _text(name: str, value: Any) -> str:
    """The value as text.

    A numeric id is often an integer in a table, or a whole float if its column has missing values.
    """
    if isinstance(value, str):
        return value
    if (
        isinstance(value, numbers.Real)
        and not isinstance(value, bool)
        and float(value).is_integer()
    ):
        return str(int(value))
    raise InputError(
        f"{name} {quoted(value)}: is neither text nor a whole number. Give an id or name in each"
        " row."
    )


def _is_missing(value: Any) -> bool:
    return bool(pd.api.types.is_scalar(value) and pd.isna(value))


mlflow.models.set_model(TailPredictor())
