"""A run: its folder, events and checkpoints, and the beginning and end of the programs on it.

In: a run folder. Out: the run, opened once (`open_run`). Everything that a run made has the hashes
of its graph, split and configuration. This room knows no Prefect and no MLflow.
"""
