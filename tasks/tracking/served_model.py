"""What a registered version answers with: the file that MLflow copies into it and runs where it is
loaded ("models from code").

    model = mlflow.pyfunc.load_model("models:/hgt-embeddings-<graph>@champion")
    model.predict(pd.DataFrame({"head": ["DB00945"], "relation": ["indication"]}), params={"k": 10})

Needs `hgt` and nothing else of the project; a copy of it travels with the version.
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

QUERY = "query"  # the row of the input that a row of the answer belongs to


class TailPredictor(PythonModel):
    """Columns of the input: head (id, also as an integer, or name), relation, and where a head is
    not unique head_type.

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
        """The columns of `Predictor.tails` for each row of the input, and the row's number as
        `query`; no rows for no rows.

        params: k and include_known; None keeps the default. Raises InputError, which names the row,
            as `Predictor.tails` does.
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
        """MLflow lets rows of another kind through: numbers, lists, and what pandas makes of a
        missing value.
        """
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
    """An id of numbers is often an integer in a table, and a whole float once its column had a
    missing value.
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
        f"{name} {quoted(value)}: is no text and no whole number. Give an id or name in each row."
    )


def _is_missing(value: Any) -> bool:
    return bool(pd.api.types.is_scalar(value) and pd.isna(value))


mlflow.models.set_model(TailPredictor())
