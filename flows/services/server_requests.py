"""HTTP requests to the servers on this machine, without the imports of their clients."""

from __future__ import annotations

import json
import time
import urllib.request
from datetime import UTC, datetime
from http import HTTPStatus
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError

NO_ANSWER = (OSError, ValueError, HTTPException)
_ANSWER_SECONDS, _ASK_SECONDS, _ASK_AGAIN_SECONDS = 5.0, 30.0, 0.5


def ask(url: str, body: dict[str, Any] | None = None, method: str | None = None) -> Any:
    """The JSON of a server's answer; None for an empty answer.

    url: address of the request
    body: JSON to send; None sends a GET
    method: HTTP method, if it is not the default

    Raises one of NO_ANSWER. Prefect's server answers 503 while another writer locks its SQLite
    file; then this repeats the request. Prefect's client does the same after 3 s of imports.
    """
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    until = time.monotonic() + _ASK_SECONDS
    while True:
        try:
            with _open(request, _ASK_SECONDS) as answer:
                return json.loads(answer.read() or "null")
        except HTTPError as error:
            error.close()
            if error.code != HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() > until:
                raise
        time.sleep(_ASK_AGAIN_SECONDS)


def answers(url: str) -> bool:
    try:
        with _open(urllib.request.Request(url), _ANSWER_SECONDS) as answer:
            return bool(answer.status == 200)
    except NO_ANSWER:
        return False


def heartbeat_ages(pool: str, api: str) -> dict[str, float]:
    """{worker of the pool: seconds since its last heartbeat}; empty without an answer."""
    try:
        workers = ask(f"{api}/work_pools/{pool}/workers/filter", {})
    except NO_ANSWER:
        return {}
    now = datetime.now(UTC)
    return {
        w["name"]: (now - datetime.fromisoformat(w["last_heartbeat_time"])).total_seconds()
        for w in workers
        if w["last_heartbeat_time"]
    }


def _open(request: urllib.request.Request, seconds: float) -> Any:
    # a proxy would look for 127.0.0.1 on its own machine
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
        request, timeout=seconds
    )
