"""Prefect tasks. Each takes a reference (the run's id), calls one function of `hgt`, saves, and
returns a reference.

Telemetry of every dependency is off unless the user's environment says otherwise, and this machine
is reached without a proxy. It stands here because the libraries read it while they are imported,
and no module imports one of them before this package.
"""

import os

from tasks.direct import keep_local_direct

# they would stand between the flow's lines
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
keep_local_direct()
