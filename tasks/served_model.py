"""What a registered version answers with: the file that MLflow copies into it and runs where it is loaded ("models from code").

    model = mlflow.pyfunc.load_model("models:/hgt-embeddings-<graph>@champion")
    model.predict(pd.DataFrame({"head": ["DB00945"], "relation": ["indication"]}), params={"k": 10})

Needs `hgt` and nothing else of the project; a copy of it travels with the version.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext

from hgt.predictor import Predictor

QUERY = "query"  # the row of the input that a row of the answer belongs to


class TailPredictor(PythonModel):
    """Columns of the input: head (id or name), relation, and where a head is not unique head_type. See `Predictor.tails`."""

    def load_context(self, context: PythonModelContext) -> None:
        self.predictor = Predictor.load(Path(context.artifacts["embeddings"]), Path(context.artifacts["graph"]))

    def predict(self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """The columns of `Predictor.tails` for each row of the input, and the row's number as `query`."""
        answers = []
        for number, row in enumerate(model_input.to_dict("records")):
            head_type = row.get("head_type")
            known_type = None if pd.isna(head_type) else head_type
            tails = self.predictor.tails(row["head"], row["relation"], head_type=known_type, **(params or {}))
            tails.insert(0, QUERY, number)
            answers.append(tails)
        return pd.concat(answers, ignore_index=True)


mlflow.models.set_model(TailPredictor())
