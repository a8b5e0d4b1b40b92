"""Runs the programs of the library.

In: a run, and the counts for its memory plan. Out: finished programs. A program runs in a child
process, in a container, or through Prefect's Docker work pool. When memory runs out, the ladder
chooses the next place. Of the tasks only this package knows Docker. It knows no MLflow.
"""
