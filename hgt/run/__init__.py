"""In: a run folder. Out: the run, opened once (`open_run`), its events, its checkpoints, and how
the programs that work on it begin and end. Everything that a run made carries the hashes of the
graph, split and configuration that it was made from. It knows no Prefect and no MLflow.
"""
