"""The Docker work pool of a Prefect server, and whether it takes a run now."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime

import anyio
import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import Worker
from prefect.exceptions import ObjectNotFound

from hgt.errors import HgtError

DEPLOYMENT, POOL = "train-on-cpu/docker", "docker-cpu"
# a worker without a heartbeat for longer than this and than three intervals is gone, whatever its
# state says
SILENT_SECONDS = 20.0
# of the container's memory: its two Prefect processes (328 MB of their own, 71 MB of files; 3.8.8)
PREFECT_BYTES = 400 << 20
_DEFAULT_HEARTBEAT_SECONDS = 30.0
# prefect 3.8.8 raises RuntimeError for an API that it cannot reach
NO_ANSWER = (httpx.HTTPError, OSError, RuntimeError)


class NotStarted(HgtError):
    """The work pool did not start the run and never will. The run can start elsewhere."""


def has_server() -> bool:
    """Whether the flow uses a Prefect server of the user, not Prefect's temporary one."""
    return bool(os.environ.get("PREFECT_API_URL"))


def unavailable() -> str | None:
    """Why the work pool cannot take a run, with the remedy; None when it can."""
    try:
        with get_client(sync_client=True) as client:
            deployment = client.read_deployment_by_name(DEPLOYMENT)
            pool = client.read_work_pool(deployment.work_pool_name or POOL)
        workers = anyio.run(_workers, pool.name)
    except ObjectNotFound:
        return (
            f"The Prefect server has no deployment {DEPLOYMENT}. Run `hgt up`, or `prefect deploy"
            " --all` in the checkout."
        )
    except NO_ANSWER as error:
        return (
            f"The Prefect server at {os.environ.get('PREFECT_API_URL')} does not answer"
            f" ({type(error).__name__}). Run `hgt up`."
        )
    if pool.is_paused:
        return f"The work pool {pool.name} is paused. Run `prefect work-pool resume {pool.name}`."
    if not any(
        _age(w)
        < max(SILENT_SECONDS, 3 * (w.heartbeat_interval_seconds or _DEFAULT_HEARTBEAT_SECONDS))
        for w in workers
    ):
        seen = (
            f"the last heartbeat was {min(map(_age, workers)):.0f} s ago"
            if workers
            else "it never had one"
        )
        return (
            f"The work pool {pool.name} has no running worker ({seen}). Run `hgt up`, or `prefect"
            f" worker start --pool {pool.name}`."
        )
    return None


async def _workers(pool: str) -> list[Worker]:
    async with get_client() as client:
        return await client.read_workers_for_work_pool(pool)


def _age(worker: Worker) -> float:
    seen = worker.last_heartbeat_time
    return (datetime.now(UTC) - seen).total_seconds() if seen else float("inf")


@contextlib.contextmanager
def explained_silence() -> Iterator[None]:
    try:
        yield
    except NO_ANSWER as error:
        server = os.environ.get("PREFECT_API_URL")
        raise HgtError(
            f"The Prefect server at {server} stopped answering ({type(error).__name__}). Run `hgt"
            " up`, then resume."
        ) from error
