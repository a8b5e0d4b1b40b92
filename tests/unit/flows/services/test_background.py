"""Processes in the background: known by their mark, ended with all that they started."""

import contextlib
import json
import os
import subprocess
import sys
import time

import psutil
import pytest

from flows.services.background import Background
from tests.conftest import wait_for

_FAMILY = """
import signal, subprocess, sys, time
sleeps = [sys.executable, "-c", "import time; time.sleep(600)"]
own_session = subprocess.Popen(sleeps, start_new_session=True)
print(own_session.pid, flush=True)
{ignore}
time.sleep(600)
"""
_IGNORE = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"


@pytest.fixture
def background(tmp_path):
    background = Background(tmp_path / "services", "sleeper")
    yield background
    background.kill()


def start(background, ignore=""):
    """The pids of a process and of its child in a session of its own."""
    record = background.start(
        [sys.executable, "-c", _FAMILY.format(ignore=ignore)], dict(os.environ), {"port": "1"}
    )
    child = wait_for(lambda: background.log.read_text().strip(), 20, "the child's pid")
    return record.pid, int(child)


def is_alive(pid):
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def test_it_is_known_by_its_file(background):
    assert background.leader() is None
    pid, _ = start(background)
    assert background.leader().pid == pid
    assert background.record().settings == {"port": "1"}
    assert background.record().started == pytest.approx(time.time(), abs=30)
    assert os.getsid(pid) == pid, "Ctrl-C in the terminal must not reach it"


@pytest.mark.parametrize(
    ("ignore", "at_least"), [("", 0), (_IGNORE, 1)], ids=["ends on SIGTERM", "ignores SIGTERM"]
)
def test_stop_ends_it_with_what_it_started_in_another_session(background, ignore, at_least):
    pid, child = start(background, ignore)
    begin = time.monotonic()
    assert background.stop(1)
    assert at_least <= time.monotonic() - begin < 15
    assert not is_alive(pid)
    assert not is_alive(child)
    assert not background.file.exists()
    assert not background.stop(1)


def test_what_outlives_a_killed_process_is_found(background):
    pid, child = start(background)
    os.kill(pid, 9)
    wait_for(lambda: background.leader() is None, 10, "its end")
    assert background.survivors()
    assert background.stop(5)
    assert not is_alive(child)


def test_a_process_that_got_the_pid_later_is_not_ours(background):
    stranger = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
    )
    try:
        background.folder.mkdir()
        started = psutil.Process(stranger.pid).create_time()
        background.file.write_text(
            json.dumps({"pid": stranger.pid, "started": started, "settings": {}})
        )
        assert background.leader() is None
        assert not background.stop(1)
        assert stranger.poll() is None
        assert not background.file.exists()
    finally:
        stranger.kill()
        stranger.wait()
