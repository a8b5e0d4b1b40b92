"""NO_PROXY as the clients read it: this machine directly, everything else as the user has it."""

import urllib.request

import httpx
import pytest
import requests.utils

from tasks import direct
from tasks.direct import keep_local_direct

PROXY = "http://127.0.0.1:9"
LOCAL = [
    "http://127.0.0.1:4200/api",
    "http://localhost:5001",
    "http://[::1]:4200/api",
    "http://127.0.0.1:2375",
    "http+docker://localhost",
]
REMOTE = ["http://mlflow.example.org:5000", "https://example.org"]
VARIABLES = (
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "PREFECT_API_URL",
    "MLFLOW_TRACKING_URI",
    "DOCKER_HOST",
)


@pytest.fixture
def set_environment(monkeypatch):
    """`set_environment(HTTP_PROXY=...)`: these and no other variables of a proxy."""

    def apply(**values):
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.upper(), raising=False)
        for name in ("NO_PROXY", "no_proxy"):  # so that they are put back
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return apply


def goes_through_proxy(url):
    with httpx.Client(verify=False) as client:
        httpx_does = (
            url.startswith("http+")
            or type(client._transport_for_url(httpx.URL(url))._pool).__name__ != "ConnectionPool"
        )
    requests_does = (
        requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url)) is not None
    )
    assert url.startswith("http+") or httpx_does == requests_does
    return requests_does


@pytest.mark.parametrize("name", ["HTTP_PROXY", "all_proxy"])
@pytest.mark.parametrize(
    "given",
    [
        "",
        "corp.example",
        "[::1],10.0.0.0/8",
        "fe80::/10, .corp.example ,localhost",
        "*,corp.example",
    ],
)
def test_what_is_local_goes_through_no_proxy(set_environment, name, given):
    set_environment(**{name: PROXY} | ({"NO_PROXY": given} if given else {}))
    keep_local_direct()
    assert not any(goes_through_proxy(url) for url in LOCAL)
    if "*" not in given:
        assert goes_through_proxy(REMOTE[0])
        assert goes_through_proxy("http://a.corp.example") is ("corp" not in given)


def test_what_is_remote_goes_through_it(set_environment):
    set_environment(HTTP_PROXY=PROXY, HTTPS_PROXY=PROXY)
    keep_local_direct()
    assert all(goes_through_proxy(url) for url in REMOTE)


def test_a_name_of_this_machine_in_an_address_is_local(set_environment, monkeypatch):
    monkeypatch.setattr(direct.socket, "gethostname", lambda: "Workstation")
    set_environment(
        http_proxy=PROXY,
        PREFECT_API_URL="http://workstation:4200/api",
        MLFLOW_TRACKING_URI="http://127.0.0.2:5000",
    )
    keep_local_direct()
    assert not goes_through_proxy("http://workstation:4200/api")
    assert not goes_through_proxy("http://127.0.0.2:5000")


def test_all_of_the_users_exceptions_stay(set_environment):
    set_environment(http_proxy=PROXY, NO_PROXY="a.example", no_proxy="b.example")
    keep_local_direct()
    once = direct.os.environ["NO_PROXY"]
    keep_local_direct()
    assert direct.os.environ["NO_PROXY"] == direct.os.environ["no_proxy"] == once
    assert once.startswith("a.example,b.example,127.0.0.1,")


@pytest.mark.parametrize("values", [{}, {"HTTP_PROXY": ""}, {"NO_PROXY": "a.example"}])
def test_without_a_proxy_nothing_changes(set_environment, values):
    set_environment(**values)
    keep_local_direct()
    assert {name: v for name in ("NO_PROXY", "no_proxy") if (v := direct.os.environ.get(name))} == {
        k: v for k, v in values.items() if v
    }


def test_the_star_alone_stays_alone(set_environment):
    set_environment(HTTP_PROXY=PROXY, NO_PROXY="*")
    keep_local_direct()
    assert direct.os.environ["no_proxy"] == "*"
    assert not goes_through_proxy(REMOTE[0])


def test_a_macs_own_proxy_keeps_its_exceptions(set_environment, monkeypatch):
    """There NO_PROXY in the environment would switch the system's settings off."""
    set_environment(http_proxy="")
    monkeypatch.setattr(urllib.request, "getproxies", lambda: {"http": PROXY, "ftp": PROXY})
    monkeypatch.setattr(direct, "_system_exceptions", lambda: [".local"])
    keep_local_direct()
    assert not goes_through_proxy(LOCAL[0])
    assert not goes_through_proxy("http://printer.local")
    assert goes_through_proxy(REMOTE[0])
