"""The files of a registered version: the folder that MLflow stores and loads."""

from __future__ import annotations

import contextlib
import shutil
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import mlflow.pyfunc
import safetensors.torch
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType

import hgt
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.run.checkpoint import best_checkpoint, state_of
from hgt.run.folder import RunFolder

_NEEDS = ("jaxtyping", "mlflow", "numpy", "pandas", "pyarrow", "safetensors", "scipy", "torch")
_SERVED_MODEL = Path(__file__).with_name("served_model.py")
SIGNATURE = ModelSignature(
    # any: a column of integer ids is none of strings, and MLflow would refuse it
    Schema(
        [
            ColSpec(AnyType(), "head"),
            ColSpec("string", "relation"),
            ColSpec("string", "head_type", required=False),
        ]
    ),
    None,
    ParamSchema([ParamSpec("k", "long", 10), ParamSpec("include_known", "boolean", False)]),
)


@contextlib.contextmanager
def saved_model(folder: RunFolder, graph: KnowledgeGraph) -> Iterator[Path]:
    """A folder that MLflow can load, for the duration of the block.

    It contains `tasks/tracking/served_model.py`, `hgt` and the run's files.
    """
    work = folder.path / ".model"
    shutil.rmtree(work, ignore_errors=True)  # left by a run that was killed here
    work.mkdir()
    try:
        weights, model = work / "weights.safetensors", work / "model"
        safetensors.torch.save_file(
            state_of("model", best_checkpoint(folder.checkpoints).tensors), weights
        )
        files = {
            "embeddings": folder.embeddings / "embeddings.parquet",
            "relations": folder.embeddings / "relations.parquet",
            "graph": folder.graph,
            "weights": weights,
            "configuration": folder.config,
            "validation": folder.report / "validation.json",
            "model_card": folder.report / "model_card.md",
        }
        # it recommends an input example, for which it would run the model
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            mlflow.pyfunc.save_model(
                str(model),
                python_model=str(_SERVED_MODEL),
                # a URI: MLflow reads a plain path as a URI too, and stops at #
                artifacts={name: file.as_uri() for name, file in files.items()},
                code_paths=[str(Path(hgt.__file__).parent)],
                pip_requirements=[
                    f"{package}=={version(package).split('+')[0]}" for package in _NEEDS
                ],
                signature=SIGNATURE,
                metadata={"graph_hash": graph.hash, "run": folder.path.name},
            )
        yield model
    finally:
        shutil.rmtree(work, ignore_errors=True)
