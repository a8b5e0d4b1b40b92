"""Logs a run to MLflow.

In: parameters, losses, files and the verdict of a run. Out: one MLflow run, and a registered
version of an accepted run. The run folder keeps undelivered entries; a later call delivers them. No
error of MLflow ends a training. Only this package knows MLflow.
"""
