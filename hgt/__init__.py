"""The library: tensors and files, from a `kg.csv` to a table of node embeddings and its validation
report. It knows neither Prefect nor MLflow nor Docker. Each room is a package whose docstring says
what comes in, what goes out and what it does not know; an import contract (pyproject.toml) holds
their order. Four programs work on a run folder: `hgt.train`, `hgt.embed`, `hgt.evaluate` and
`hgt.baselines`.
"""
