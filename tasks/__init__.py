"""Prefect tasks. Each takes the run, calls one function of `hgt` and saves the result.

This package turns off the telemetry of every dependency, unless the user's environment turns it on.
It also excepts this machine from proxies. Both must happen here: the libraries read these settings
while they are imported, and no module imports one of them before this package.
"""

import os

from tasks.direct import keep_local_direct

# progress bars of MLflow would break the flow's output
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
keep_local_direct()
