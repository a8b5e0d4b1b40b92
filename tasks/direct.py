"""What is local never goes through a proxy: for this process, its children and the containers that
it starts.

`HTTP_PROXY` without `NO_PROXY` makes the clients of Prefect, MLflow and Docker ask the proxy for
127.0.0.1. What is remote, such as a tracking server of the user's, still goes through it.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import urllib.request
from collections.abc import MutableMapping
from urllib.parse import urlsplit

# the last: this machine, as a container sees it
_LOCAL = ("127.0.0.1", "localhost", "::1", "0.0.0.0", "host.docker.internal")
_ADDRESSES = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "DOCKER_HOST")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_NAMES = ("NO_PROXY", "no_proxy")


def keep_local_direct(environment: MutableMapping[str, str] = os.environ) -> None:
    """Add this machine to NO_PROXY, in both spellings, where there is a proxy; what the user
    excepted stays so.

    Before the clients are imported: some read it only then. Without a proxy nothing is changed.
    """
    _spell_out_system_proxies(environment)
    if not any(name.lower() in _PROXIES and value for name, value in environment.items()):
        return
    given = [
        host.strip().strip("[]") for name in _NAMES for host in environment.get(name, "").split(",")
    ]
    # httpx 0.28 fails at networks of IPv6
    given = [host for host in given if host and not (":" in host and "/" in host)]
    # nothing goes through it; beside other names urllib would not know the star
    if set(given) != {"*"}:
        given += [*_LOCAL, *_own_hosts(environment)]
    for name in _NAMES:
        environment[name] = ",".join(dict.fromkeys(given))


def _own_hosts(environment: MutableMapping[str, str]) -> list[str]:
    """Other names of this machine that the user's addresses have."""
    found = (_host(environment.get(name, "")) for name in _ADDRESSES)
    return [host for host in found if host and _is_here(host)]


def _host(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.endswith(".localhost") or host == socket.gethostname().lower()


def _spell_out_system_proxies(environment: MutableMapping[str, str]) -> None:
    """A Mac's own settings count only where the environment names no proxy, not even NO_PROXY: name
    them there.
    """
    if environment is not os.environ or urllib.request.getproxies_environment():
        return
    for scheme, address in urllib.request.getproxies().items():
        if f"{scheme}_proxy" in _PROXIES:
            environment[f"{scheme}_proxy"] = address
            environment["no_proxy"] = ",".join(_system_exceptions())


def _system_exceptions() -> list[str]:
    """Of a Mac, such as *.local."""
    try:
        from _scproxy import _get_proxy_settings
    except ImportError:
        return []
    return [host.removeprefix("*") for host in _get_proxy_settings().get("exceptions", ())]
