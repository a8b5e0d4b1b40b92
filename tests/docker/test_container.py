"""The CPU worker in a real container: the real trainer on a small graph, every way it can end, and
that nothing of it stays.
"""

import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from hgt.errors import HgtError, InputError, OutOfMemory
from hgt.run.checkpoint import best_checkpoint, load_newest
from hgt.run.events import EventReader
from hgt.run.folder import RunFolder
from tasks.execution import container, engine, readiness
from tasks.execution.child import run_child
from tasks.execution.container import RUN_LABEL, remove_leftovers, run_container
from tasks.execution.image import SOURCE_LABEL
from tasks.execution.readiness import engine_memory_bytes, unavailable
from tests.conftest import CHECKOUT, living_processes, wait_for
from tests.planned import made_up_plan
from tests.relay import Relay
from tests.unit.hgt.programs.test_training import losses, make_run

GB = 10**9
ENDLESS = {"num_epochs": 100_000, "patience": 100_000, "checkpoint_minutes": 0.001}
docker_only = pytest.mark.docker


@pytest.fixture
def folder(tmp_path, small_kg):
    return make_run(tmp_path / "run", small_kg, device="cpu")


@pytest.fixture
def endless(tmp_path, small_kg):
    return make_run(tmp_path / "endless", small_kg, device="cpu", **ENDLESS)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def nothing_stays(tmp_path, worker_image, docker_engine):
    """After the test: no container of its runs, no guard, no heartbeat."""
    yield
    runs = [path.parent.name for path in tmp_path.glob("*/config.json")]
    left = [c.name for run in runs for c in containers_of(docker_engine, run)]
    for run in runs:
        remove_leftovers(run, even_running=True)
    assert not left
    assert not list(tmp_path.glob("*/.heartbeat*"))
    wait_for(lambda: not guards_of(tmp_path), 5, "the guard to end")


def containers_of(client, run):
    return client.containers.list(
        all=True, filters={"label": f"{RUN_LABEL}={run}"}, ignore_removed=True
    )


def guards_of(path):
    return living_processes("tasks.execution.container_guard", str(path))


class Stop(Exception):
    """Stands for whatever ends the parent's following."""


def once(event, action):
    """An `on_event` that does something at the first event of this kind."""
    done = []

    def on_event(told):
        if told["event"] == event and not done:
            done.append(True)
            action()

    return on_event


def stop():
    raise Stop


def ignore(event):
    pass


# --- ends well


@docker_only
@pytest.mark.usefixtures("nothing_stays")
def test_the_container_learns_what_a_child_learns(tmp_path, folder, small_kg):
    native = make_run(tmp_path / "native", small_kg, device="cpu")
    seen = []
    began = time.time()
    run_container("train", folder, seen.append, 2 * GB)
    print(  # noqa: T201
        "container start to first step:",
        next(e["time"] for e in seen if e["event"] == "step") - began,
    )
    run_child("train", native, ignore)
    assert losses(folder) == losses(native)
    mine, other = (best_checkpoint(f.checkpoints).tensors for f in (folder, native))
    assert all(torch.equal(mine[name], other[name]) for name in other)
    assert [e["event"] for e in seen] == [e["event"] for e in EventReader(native.events).new()]

    run_container("embed", folder, ignore, 2 * GB)
    run_child("embed", native, ignore)
    for file in ("embeddings.safetensors", "embeddings.parquet"):
        assert (folder.embeddings / file).read_bytes() == (native.embeddings / file).read_bytes()
    assert {path.stat().st_uid for path in folder.path.rglob("*")} == {os.getuid()}


@docker_only
@pytest.mark.usefixtures("nothing_stays")
def test_it_goes_on_from_the_last_checkpoint(tmp_path, folder, small_kg):
    native = make_run(tmp_path / "native", small_kg, device="cpu")
    with pytest.raises(Stop):
        run_child("train", folder, once("epoch", stop))
    run_container("train", folder, ignore, 2 * GB)
    run_child("train", native, ignore)
    assert losses(folder) == losses(native)


# --- what it may do

PROBE = """
import json, os, socket, sys
run = sys.argv[1]

def fails(action):
    try:
        action()
    except OSError as error:
        return error.strerror or str(error)
    return "done"

def status(field):
    return next(line.split()[1] for line in open("/proc/self/status") if line.startswith(field))

def connect():
    socket.create_connection(("1.1.1.1", 53), timeout=2)

print(json.dumps({
    "uid": os.getuid(), "gid": os.getgid(),
    "capabilities": status("CapEff"), "no_new_privileges": status("NoNewPrivs"),
    "beside": os.listdir(os.path.dirname(run)),
    "interfaces": [name for _, name in socket.if_nameindex()],
    "root": fails(lambda: open("/written", "w")),
    "code": fails(lambda: open("/opt/hgt/hgt/training/step.py", "a")),
    "home": fails(lambda: open(os.path.expanduser("~/written"), "w")), "network": fails(connect),
    "graph": fails(lambda: open(next(os.scandir(f"{run}/graph")).path, "a")),
    "new": fails(lambda: open(f"{run}/graph/new", "w")),
    **{name: fails(lambda: open(f"{run}/{name}", "a")) for name in
       ("config.json", "split.safetensors", "plan.json")},
    "run": fails(lambda: open(f"{run}/written", "w")),
}))
"""


@docker_only
@pytest.mark.usefixtures("nothing_stays")
def test_what_the_container_may_do(tmp_path, endless, docker_engine, worker_image, monkeypatch):
    made_up_plan().save(endless.plan)
    if os.getuid() == 0:  # a user without rights, as everywhere but in a sandbox
        monkeypatch.setattr(container.os, "getuid", lambda: 12_345)
        monkeypatch.setattr(container.os, "getgid", lambda: 54_321)
        for path in [endless.path, *endless.path.rglob("*")]:
            os.chown(path, 12_345, 54_321)
    found, limits = {}, {}

    def look():
        (running,) = containers_of(docker_engine, endless.path.name)
        found.update(
            json.loads(running.exec_run(["python", "-c", PROBE, str(endless.path)]).output)
        )
        limits.update(running.attrs["HostConfig"])
        raise Stop

    with pytest.raises(Stop):
        run_container("train", endless, once("step", look), 2 * GB)
    read_only = "Read-only file system"
    assert found == {
        "uid": os.getuid(),
        "gid": os.getgid(),
        "capabilities": "0000000000000000",
        "no_new_privileges": "1",
        "beside": [endless.path.name],
        "interfaces": ["lo"],
        "network": "Network is unreachable",
        "run": "done",
        "home": "done",
        "code": "Permission denied",
        **dict.fromkeys(
            ("root", "graph", "new", "config.json", "split.safetensors", "plan.json"), read_only
        ),
    }
    assert found["uid"] != 0
    assert (limits["Memory"], limits["MemorySwap"]) == (2 * GB, 2 * GB)
    assert 0 < limits["PidsLimit"] < 10_000
    assert docker_engine.images.get(worker_image).attrs["Config"]["User"] not in (
        "",
        "0",
        "root",
        "0:0",
    )


@docker_only
def test_the_image_is_small_and_trains_a_folder_mounted_anywhere(
    folder, worker_image, docker_engine
):
    assert docker_engine.images.get(worker_image).attrs["Size"] < 1.5e9
    options = {
        "volumes": [f"{folder.path}:/run"],
        "user": f"{os.getuid()}:{os.getgid()}",
        "read_only": True,
        "tmpfs": {"/tmp": ""},
    }
    docker_engine.containers.run(
        worker_image,
        ["python", "-m", "hgt.train", "/run"],
        remove=True,
        network_mode="none",
        **options,
    )
    assert list(EventReader(folder.events).new())[-1]["event"] == "end"


# --- ends badly


@docker_only
@pytest.mark.usefixtures("nothing_stays")
def test_an_exception_in_the_container_is_told_in_its_own_words(tmp_path, small_kg, folder):
    diverging = make_run(tmp_path / "diverging", small_kg, device="cpu", learning_rate=10.0)
    with pytest.raises(HgtError, match="Lower learning_rate") as caught:
        run_container("train", diverging, ignore, 2 * GB)
    assert not isinstance(caught.value, OutOfMemory)
    folder.split.unlink()
    with pytest.raises(HgtError, match=str(folder.split)) as caught:
        run_container("train", folder, ignore, 2 * GB)
    assert not isinstance(caught.value, OutOfMemory)
    folder.config.unlink()
    with pytest.raises(InputError, match="is no run folder"):
        run_container("train", folder, ignore, 2 * GB)
    folder.config.touch()  # so that `nothing_stays` looks for it


@docker_only
@pytest.mark.usefixtures("nothing_stays")
def test_over_its_memory_limit(tmp_path, small_kg):
    large = make_run(
        tmp_path / "large", small_kg, device="cpu", hidden_dim=2048, embedding_dim=2048
    )
    made_up_plan(phases={"step": 1000}).save(large.plan)
    with pytest.raises(
        OutOfMemory, match=r"needed more than its limit of 0\.7 GB.*--docker-memory"
    ) as caught:
        run_container("train", large, ignore, int(0.7 * GB))
    assert (caught.value.device, caught.value.phase, caught.value.planned_bytes) == (
        "cpu",
        "step",
        1000,
    )


@docker_only
@pytest.mark.usefixtures("nothing_stays")
@pytest.mark.parametrize(
    ("end", "kind", "words"),
    [
        (
            lambda c: c.kill(),
            OutOfMemory,
            r"was killed \(exit code 137\), most likely for memory, with a limit of 2\.0 GB",
        ),
        (lambda c: c.stop(), HgtError, "failed .exit code 143"),
        (lambda c: c.remove(force=True), HgtError, "Another program removed the running container"),
    ],
    ids=["kill", "stop", "remove"],
)
def test_ended_from_outside(endless, docker_engine, end, kind, words):
    with pytest.raises(HgtError, match=words) as caught:
        run_container(
            "train",
            endless,
            once("step", lambda: end(*containers_of(docker_engine, endless.path.name))),
            2 * GB,
        )
    assert type(caught.value) is kind
    checkpoint_is_whole(endless)


def checkpoint_is_whole(folder):
    checkpoint, skipped = load_newest(
        folder.checkpoints, folder.load_graph().hash, folder.load_config().fingerprint()
    )
    assert checkpoint is not None
    assert not skipped


@docker_only
@pytest.mark.usefixtures("nothing_stays")
def test_a_run_that_is_being_trained_is_refused(endless):
    other = []

    def start_another():
        with pytest.raises(InputError, match="another process is training this run") as caught:
            run_container("train", endless, ignore, 2 * GB)
        other.append(caught.value)
        raise Stop

    with pytest.raises(Stop):
        run_container("train", endless, once("step", start_another), 2 * GB)
    assert other


# --- the parent ends

PARENT = """
import sys
from pathlib import Path
from hgt.run.folder import RunFolder
from tasks.execution.container import run_container
run_container("train", RunFolder(Path(sys.argv[1])), lambda event: None, 2_000_000_000)
"""


@contextlib.contextmanager
def parent_of(folder, client):
    """A process that follows a container at work."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(folder.path)], cwd=CHECKOUT, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(
            lambda: folder.events.exists() and '"epoch"' in folder.events.read_text(),
            60,
            "an epoch",
        )
        (running,) = containers_of(client, folder.path.name)
        yield parent, running
    finally:
        parent.kill()
        parent.wait()


@docker_only
@pytest.mark.usefixtures("nothing_stays")
@pytest.mark.parametrize(
    ("signum", "seconds"), [(signal.SIGINT, 15), (signal.SIGKILL, 15)], ids=["Ctrl-C", "kill -9"]
)
def test_with_its_parent_the_container_goes(endless, docker_engine, signum, seconds):
    with parent_of(endless, docker_engine) as (parent, _):
        parent.send_signal(signum)
        wait_for(
            lambda: not containers_of(docker_engine, endless.path.name),
            seconds,
            "the container to go",
        )
        parent.wait(5)
    wait_for(lambda: not guards_of(endless.path), 5, "the guard to end")
    checkpoint_is_whole(endless)


@docker_only
@pytest.mark.usefixtures("nothing_stays")
def test_without_parent_and_guard_the_trainer_stops_by_itself(endless, docker_engine):
    """As when the whole session is killed: the trainer misses the heartbeat; what is left is
    removed by whoever goes on.
    """
    with parent_of(endless, docker_engine) as (parent, running):
        (guard,) = guards_of(endless.path)
        guard.kill()
        parent.kill()
        assert running.wait(timeout=90)["StatusCode"] == 1
        assert b"is gone; resume with" in running.logs()
        assert remove_leftovers(endless.path.name) == 1
    next(endless.path.glob(".heartbeat*")).unlink()
    checkpoint_is_whole(endless)


@docker_only
@pytest.mark.usefixtures("nothing_stays")
def test_an_interrupt_while_the_container_is_made(endless, docker_engine, monkeypatch):
    """Created, but the parent never heard of it."""
    create = container.docker.models.containers.ContainerCollection.create

    def slowly(*arguments, **options):
        made = create(*arguments, **options)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # which waits for this
        time.sleep(2)
        return made

    monkeypatch.setattr(container.docker.models.containers.ContainerCollection, "create", slowly)
    with pytest.raises(KeyboardInterrupt):
        run_container("train", endless, ignore, 2 * GB)


# --- no container to be had


@docker_only
def test_a_container_can_be_had(worker_image, docker_engine, monkeypatch):
    label = docker_engine.images.get(worker_image).labels[SOURCE_LABEL]
    # of the sources that the session began with
    monkeypatch.setattr(readiness, "source_hash", lambda: label)
    total = engine_memory_bytes()
    assert unavailable() is None
    assert unavailable(total) is None
    assert (
        unavailable(total + 1)
        == f"Docker has {total / 1e9:.1f} GB of memory and the run needs {(total + 1) / 1e9:.1f}"
        " GB: "
        "give Docker more memory (Docker Desktop's own limit is under Settings, Resources)."
    )


@docker_only
def test_the_image_is_absent(folder, docker_engine, monkeypatch):
    monkeypatch.setenv("HGT_IMAGE", "hgt-no-such-image:cpu")
    sentence = (
        "The image hgt-no-such-image:cpu of the CPU worker is missing: build it with `make image`."
    )
    assert unavailable() == sentence
    with pytest.raises(HgtError) as caught:
        run_container("train", folder, ignore, GB)
    assert str(caught.value) == sentence
    assert not list(folder.path.glob(".heartbeat*"))


@docker_only
@pytest.mark.parametrize("label", ["0" * 64, None])
def test_the_image_is_stale(tmp_path, worker_image, docker_engine, monkeypatch, label):
    """Of other sources, or by somebody else."""
    name = "hgt-test-stale:cpu"
    (tmp_path / "Dockerfile").write_text(
        f"FROM {worker_image}\nLABEL {SOURCE_LABEL}={label}" if label else "FROM scratch\nLABEL a=b"
    )
    docker_engine.images.build(path=str(tmp_path), tag=name, rm=True, forcerm=True)
    monkeypatch.setenv("HGT_IMAGE", name)
    try:
        assert (
            unavailable() == f"The image {name} was built from other sources: build it again with"
            " `make image`."
        )
    finally:
        docker_engine.images.remove(name)


@docker_only
@pytest.mark.usefixtures("nothing_stays")
# docker 7.2.0 does not close one that it fails to connect
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket")
def test_the_engine_goes_down_while_the_container_works(
    tmp_path, endless, docker_engine, monkeypatch
):
    """A relay before the engine's socket that breaks: nothing can be removed then, but the
    container stops by itself.
    """
    relay = Relay(engine.engine_address().removeprefix("unix://"))
    monkeypatch.setenv("DOCKER_HOST", relay.address)
    try:
        with pytest.raises(HgtError, match=r"engine stopped answering.*hgt train --resume"):
            run_container("train", endless, once("step", relay.cut), 2 * GB)
        assert "does not answer" in unavailable()
    finally:
        relay.cut()
    monkeypatch.undo()
    gc.collect()  # those sockets
    (left,) = containers_of(docker_engine, endless.path.name)
    assert left.wait(timeout=90)["StatusCode"] == 1
    assert remove_leftovers(endless.path.name) == 1


# --- without an engine


@pytest.fixture
def dead_socket(tmp_path, monkeypatch):
    """The address of an engine that has ended."""
    address = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{address}")
    return address


@pytest.mark.parametrize(
    ("system", "remedy"),
    [
        ("darwin", "start Docker Desktop"),
        ("linux", "start it, as with `sudo systemctl start docker`"),
    ],
)
def test_the_engine_is_down(dead_socket, tmp_path, monkeypatch, system, remedy):
    monkeypatch.setattr(readiness.sys, "platform", system)
    sentence = f"The Docker engine does not answer at unix://{dead_socket}: {remedy}."
    assert unavailable() == sentence
    folder = RunFolder(tmp_path)
    for call in (
        engine_memory_bytes,
        lambda: run_container("train", folder, ignore, GB),
        lambda: remove_leftovers("run"),
    ):
        with pytest.raises(HgtError) as caught:
            call()
        assert str(caught.value) == sentence


def test_the_engine_is_down_and_its_socket_gone(tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    monkeypatch.setattr(readiness.shutil, "which", lambda name: f"/bin/{name}")
    assert "does not answer" in unavailable()
    monkeypatch.setattr(readiness.shutil, "which", lambda name: None)
    assert (
        unavailable()
        == "Docker is not installed: install Docker Desktop, or Docker Engine on Linux."
    )


def test_an_engine_that_hangs_costs_two_seconds(tmp_path, monkeypatch):
    address = tmp_path / "docker.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{address}")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen()
        began = time.monotonic()
        assert "does not answer" in unavailable()
    assert time.monotonic() - began < 3


def test_a_socket_that_the_user_may_not_use(monkeypatch):
    def refuse(timeout_seconds):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(readiness, "connect", refuse)
    assert "add yourself to the group that owns that socket" in unavailable()


@pytest.mark.parametrize(
    "address",
    ["nonsense", "tcp://127.0.0.1:1", "unix:///nowhere", "http://[", "ssh://nobody@127.0.0.1"],
)
def test_whatever_the_address_unavailable_does_not_raise(monkeypatch, address):
    monkeypatch.setenv("DOCKER_HOST", address)
    assert unavailable()


def test_the_address_is_that_of_the_docker_command(tmp_path, monkeypatch):
    """Docker Desktop, Colima and others listen on a socket of the user's, which only Docker's own
    configuration names.
    """
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.delenv("DOCKER_CONTEXT", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert engine.engine_address() == "unix:///var/run/docker.sock"
    name = "desktop-linux"
    (tmp_path / "config.json").write_text(json.dumps({"currentContext": name}))
    from docker.context.config import get_meta_file

    meta = Path(get_meta_file(name))
    meta.parent.mkdir(parents=True)
    endpoint = {"Host": "unix:///home/me/.docker/run/docker.sock", "SkipTLSVerify": False}
    meta.write_text(json.dumps({"Name": name, "Metadata": {}, "Endpoints": {"docker": endpoint}}))
    assert engine.engine_address() == "unix:///home/me/.docker/run/docker.sock"
    (tmp_path / "config.json").write_text("{")
    assert engine.engine_address() == "unix:///var/run/docker.sock"
