"""What a server says 503 to is asked again, as Prefect's own client does: its SQLite file was
locked just then.
"""

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.error import HTTPError

import pytest

from flows.services import server_requests as services


@pytest.fixture
def server():
    """A function (statuses, one for each request, the last of them for all others) -> (address,
    list of the methods asked with).
    """
    with contextlib.ExitStack() as stack:

        def start(*statuses):
            asked = []

            class Handler(BaseHTTPRequestHandler):
                def answer(self):
                    asked.append(self.command)
                    status = statuses[min(len(asked), len(statuses)) - 1]
                    body = b"" if status == 204 else b'{"status": %d}' % status
                    self.rfile.read(int(self.headers.get("Content-Length", 0)))
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

                do_GET = do_POST = do_PATCH = answer

                def log_message(self, *_):
                    pass

            http = stack.enter_context(HTTPServer(("127.0.0.1", 0), Handler))
            threading.Thread(target=http.serve_forever, daemon=True).start()
            stack.callback(http.shutdown)
            return f"http://127.0.0.1:{http.server_port}/", asked

        yield start


def test_a_locked_database_is_asked_again(server):
    address, asked = server(503, 503, 200)
    assert services.ask(address, {"is_paused": True}, "PATCH") == {"status": 200}
    assert asked == ["PATCH"] * 3


def test_every_other_failure_is_raised_at_once(server):
    address, asked = server(404)
    with pytest.raises(HTTPError, match="404") as raised:
        services.ask(address)
    assert isinstance(raised.value, services.NO_ANSWER)
    assert asked == ["GET"]


def test_a_database_that_stays_locked_is_not_asked_for_ever(server, monkeypatch):
    monkeypatch.setattr(services, "_ASK_SECONDS", 1.2)
    address, asked = server(503)
    with pytest.raises(HTTPError, match="503"):
        services.ask(address, {})
    assert 2 <= len(asked) <= 4


def test_no_content_is_none(server):
    assert services.ask(server(204)[0]) is None
