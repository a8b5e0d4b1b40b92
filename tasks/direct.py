"""Connections to this machine bypass proxies, in this process, its children and its containers.

With `HTTP_PROXY` and without `NO_PROXY` the clients of Prefect, MLflow and Docker would ask the
proxy for 127.0.0.1. Connections to remote servers, such as the user's tracking server, still use
the proxy.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import urllib.request
from collections.abc import MutableMapping
from urllib.parse import urlsplit

# the last: this machine, as seen from a container
_LOCAL = ("127.0.0.1", "localhost", "::1", "0.0.0.0", "host.docker.internal")
_ADDRESSES = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "DOCKER_HOST")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_NAMES = ("NO_PROXY", "no_proxy")


def keep_local_direct(environment: MutableMapping[str, str] = os.environ) -> None:
    """Add this machine to NO_PROXY and no_proxy, if a proxy is set. Keeps the user's exceptions.

    Call it before importing the clients: some read NO_PROXY only at import. Without a proxy it
    changes nothing.
    """
    _spell_out_system_proxies(environment)
    if not any(name.lower() in _PROXIES and value for name, value in environment.items()):
        return
    given = [
        host.strip().strip("[]") for name in _NAMES for host in environment.get(name, "").split(",")
    ]
    # httpx 0.28 fails at networks of IPv6
    given = [host for host in given if host and not (":" in host and "/" in host)]
    # * excepts every host; urllib does not recognise it beside other names
    if set(given) != {"*"}:
        given += [*_LOCAL, *_own_hosts(environment)]
    for name in _NAMES:
        environment[name] = ",".join(dict.fromkeys(given))


def _own_hosts(environment: MutableMapping[str, str]) -> list[str]:
    """Other names of this machine in the user's addresses."""
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
    """Copy a Mac's proxy settings into the environment, if it names no proxy.

    macOS ignores its own settings as soon as the environment sets any of them, even NO_PROXY.
    """
    if environment is not os.environ or urllib.request.getproxies_environment():
        return
    for scheme, address in urllib.request.getproxies().items():
        if f"{scheme}_proxy" in _PROXIES:
            environment[f"{scheme}_proxy"] = address
            environment["no_proxy"] = ",".join(_system_exceptions())


def _system_exceptions() -> list[str]:
    """The hosts that a Mac excepts from its proxies, such as *.local."""
    try:
        from _scproxy import _get_proxy_settings
    except ImportError:
        return []
    return [host.removeprefix("*") for host in _get_proxy_settings().get("exceptions", ())]
