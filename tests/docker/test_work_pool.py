"""The hand-over through Prefect's work pool, and every way in which it can fail: real servers and
workers (`hgt up`), a real engine.

The tests share what is up, in their order: the last ones kill a worker and the server.
"""

import contextlib
import json
import os
import re
import signal

import psutil
import pytest

from flows.services.server_requests import heartbeat_ages
from hgt.run.events import EventReader
from tasks.execution.pool import SILENT_SECONDS
from tasks.execution.segments import read_segments
from tests.conftest import CHECKOUT, wait_for
from tests.docker.pool import ENDLESS, FINAL, RUN

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]
IN_POOL = {"device": "docker-cpu"}
DIRECTLY = "WARNING: The container starts without the work pool."


def out_of_memory(folder, step):
    """The environment of a trainer that runs out of memory once, at this step (tests/injected)."""
    return {
        "HGT_INJECT": f"mps {step} 1",
        "HGT_INJECT_COUNT": str(folder / "count"),
        "PYTHONPATH": str(CHECKOUT / "tests" / "injected"),
    }


def test_out_of_memory_goes_on_as_a_sub_flow(pool, tmp_path):
    with pool.train(
        RUN | {"num_epochs": 2, "max_shrinks": 0, "device": "cpu"},
        **out_of_memory(tmp_path, step=2),
    ) as training:
        training.ends(0, "ACCEPTED")
    run = training.run
    pool.ended(run, "FINISHED", parent="COMPLETED", cpu="COMPLETED")
    pool.is_whole(run, 2)
    assert [s.place for s in read_segments(pool.folder(run))] == ["native", "docker"]
    flows = pool.flow_runs(run)
    (link,) = pool.ask(
        "task_runs/filter", {"task_runs": {"id": {"any_": [flows["cpu"]["parent_task_run_id"]]}}}
    )
    assert link["flow_run_id"] == flows["parent"]["id"], "the CPU run is a sub-flow of the run"


# --- the container ends badly


SEEN = """
import json, os

(run,) = os.listdir("/hgt/runs")

def touched(path):
    try:
        with open(path, "w"):
            return "done"
    except OSError as error:
        return error.strerror

inside = {name: touched(f"/hgt/runs/{run}/{name}") for name in ("graph/new", "written")}
print(json.dumps({"runs": [run], "/new": touched("/new"), **inside}))
"""


@pytest.fixture(scope="module")
def broken(pool):
    """Three runs at a time: one whose trainer fails, one with too little memory, one whose
    container is killed.
    """
    with contextlib.ExitStack() as all_of_them:
        runs = {
            "fails": pool.train(RUN | IN_POOL | {"learning_rate": 10}),
            "grows": pool.train(ENDLESS | IN_POOL | {"docker_memory": "1GB"}),
            "killed": pool.train(ENDLESS | IN_POOL),
        }
        runs = {how: all_of_them.enter_context(training) for how, training in runs.items()}
        runs["grows"].says("epoch    1/")
        # which counts as the container's memory
        fill = "dd if=/dev/zero of=/tmp/filled bs=1M count=600"
        pool.container(runs["grows"].run).exec_run(["sh", "-c", fill])
        runs["killed"].says("epoch    1/")
        container = pool.container(runs["killed"].run)
        runs["killed"].saw = container.exec_run(["python", "-c", SEEN]).output.decode()
        container.kill()
        yield runs


def test_a_container_of_the_pool_sees_its_run_alone_and_the_graph_read_only(broken):
    run = broken["killed"].run
    read_only = "Read-only file system"
    assert json.loads(broken["killed"].saw) == {
        "runs": [run],
        "/new": read_only,
        "graph/new": read_only,
        "written": "done",
    }


def test_an_exception_in_the_container_is_told_in_its_own_words(pool, broken):
    broken["fails"].ends(1, "Lower learning_rate")
    pool.ended(broken["fails"].run, "FAILED", parent="FAILED", cpu="FAILED")
    assert "OUT OF MEMORY" not in broken["fails"].said


def test_a_container_over_its_limit_is_the_end_of_the_ladder(pool, broken):
    """Whichever of its processes the kernel takes: the trainer, Prefect's, or all."""
    broken["grows"].ends(
        1,
        r"(needed more than its limit of 1\.0 GB|killed, most likely for"
        r" memory).*--docker-memory.*Nothing is left to try",
    )
    ended = pool.states(broken["grows"].run)["cpu"]
    assert ended in ("FAILED", "CRASHED")
    pool.ended(broken["grows"].run, "FAILED", parent="FAILED", cpu=ended)


def test_a_container_that_was_killed(pool, broken):
    broken["killed"].ends(
        1, r"killed \(exit code 137\), most likely for memory, with a limit of .*--docker-memory"
    )
    pool.ended(broken["killed"].run, "FAILED", parent="FAILED", cpu="CRASHED")
    for training in broken.values():
        starts = [
            e for e in EventReader(pool.folder(training.run).events).new() if e["event"] == "start"
        ]
        assert len(starts) == 1, "it was not tried again"


# --- the image


@pytest.fixture
def second_name(pool, worker_image):
    """Another name of the image, which may be taken from it."""
    name = "hgt-test-second-name:cpu"
    pool.engine.images.get(worker_image).tag(name)
    yield name
    with contextlib.suppress(Exception):
        pool.engine.images.remove(name)


def test_the_image_is_taken_away(pool, second_name):
    with pool.train(RUN | IN_POOL | {"docker_memory": "4GB"}, HGT_IMAGE=second_name) as training:
        training.says("memory plan")
        pool.engine.images.remove(second_name)
        training.ends(
            1, f"The image {second_name} of the CPU worker is missing: build it with `make image`"
        )
    assert "No such image" in training.said, "the worker's words"
    pool.ended(training.run, "FAILED", parent="FAILED", cpu="CRASHED")


def test_a_stale_image_is_refused(pool, worker_image):
    name = "hgt-test-stale-in-pool:cpu"
    (pool.home / "Dockerfile").write_text(f"FROM {worker_image}\nLABEL kg-hgt-embeddings.sources=0")
    pool.engine.images.build(path=str(pool.home), tag=name, rm=True, forcerm=True)
    try:
        with pool.train(RUN | IN_POOL, HGT_IMAGE=name) as training:
            training.ends(
                2,
                f"The image {name} was built from other sources: build it again with `make image`",
            )
        assert "run " not in training.said, "it is refused before a run begins"
    finally:
        pool.engine.images.remove(name)


# --- the engine


def test_the_engine_is_down_when_it_is_handed_over(pool):
    with pool.train(
        RUN | IN_POOL | {"docker_memory": "4GB"}, DOCKER_HOST=pool.relay.address
    ) as training:
        training.says("memory plan")
        with pool.relay.cut_off():
            training.ends(1, "Docker engine does not answer .*: start")
    pool.ended(training.run, "FAILED", parent="FAILED", cpu="CRASHED")


def test_the_engine_goes_down_while_the_container_works(pool):
    with pool.train(ENDLESS | IN_POOL, DOCKER_HOST=pool.relay.address) as training:
        training.says("epoch    1/")
        container = pool.container(training.run)
        with pool.relay.cut_off():
            training.ends(1, "Docker engine does not answer .*: start.*resume")
    assert "`hgt down` removes it" in training.said
    assert pool.states(training.run) == {"parent": "FAILED", "cpu": "CANCELLED"}
    container.wait(timeout=60)
    container.remove()
    pool.ended(training.run, "FAILED", parent="FAILED", cpu="CANCELLED")


# --- nobody starts it: then the container is started directly, and the run finishes


def directly(pool, training, words):
    training.ends(0, "ACCEPTED")
    assert re.search(f"WARNING: .*{words}.*\\n{DIRECTLY}", training.said), training.said
    pool.is_whole(training.run, RUN["num_epochs"])


def test_the_pool_is_full(pool):
    pool.ask("work_pools/docker-cpu", {"concurrency_limit": 0}, "PATCH")
    with pool.train(RUN | IN_POOL, HGT_START_SECONDS="8") as training:
        directly(pool, training, "did not start the run within 8 s")
    pool.ask("work_pools/docker-cpu", {"concurrency_limit": None}, "PATCH")
    pool.ended(training.run, "FINISHED", parent="COMPLETED", cpu="CANCELLED")


def test_the_pool_is_paused(pool):
    pool.ask("work_pools/docker-cpu", {"is_paused": True}, "PATCH")
    with pool.train(RUN | IN_POOL) as training:
        directly(
            pool,
            training,
            "The work pool docker-cpu is paused. Run `prefect work-pool resume docker-cpu`",
        )
    pool.ask("work_pools/docker-cpu", {"is_paused": False}, "PATCH")
    pool.ended(training.run, "FINISHED", parent="COMPLETED")


def test_the_deployment_is_gone(pool):
    deployment = pool.ask("deployments/name/train-on-cpu/docker")["id"]
    pool.ask(f"deployments/{deployment}", method="DELETE")
    with pool.train(RUN | IN_POOL) as training:
        directly(pool, training, "has no deployment train-on-cpu/docker. Run `hgt up`")
    pool.ended(training.run, "FINISHED", parent="COMPLETED")
    pool.hgt("up")
    assert pool.ask("deployments/name/train-on-cpu/docker")["id"] != deployment, "deployed anew"


def test_the_worker_hangs(pool):
    """With a fresh heartbeat: it is found out while the run waits."""
    worker = psutil.Process(pool.pid("worker-docker-cpu"))
    with pool.train(RUN | IN_POOL) as training:
        training.says("memory plan")
        worker.suspend()
        try:
            directly(
                pool, training, "The work pool docker-cpu has no running worker .* Run `hgt up`"
            )
        finally:
            worker.resume()
    pool.ended(training.run, "FINISHED", parent="COMPLETED", cpu="CANCELLED")


def test_the_worker_is_killed_while_its_container_works_and_then_is_not_there(pool):
    with pool.train(ENDLESS | IN_POOL | {"num_epochs": 5}) as training:
        training.says("epoch    1/")
        os.kill(pool.pid("worker-docker-cpu"), signal.SIGKILL)
        training.ends(0, "ACCEPTED")
    pool.is_whole(training.run, 5)
    pool.ended(training.run, "FINISHED", parent="COMPLETED", cpu="COMPLETED")
    wait_for(
        lambda: min(heartbeat_ages("docker-cpu", pool.api).values()) > SILENT_SECONDS,
        60,
        "the worker's silence",
    )
    with pool.train(RUN | IN_POOL) as training:
        directly(pool, training, "The work pool docker-cpu has no running worker .* Run `hgt up`")
    pool.ended(training.run, "FINISHED", parent="COMPLETED")


def test_the_worker_and_its_container_are_killed(pool):
    """Nobody is there to report it."""
    pool.hgt("up")
    with pool.train(ENDLESS | IN_POOL) as training:
        training.says("epoch    1/")
        os.kill(pool.pid("worker-docker-cpu"), signal.SIGKILL)
        pool.container(training.run).kill()
        training.ends(1, "container is gone.*Run `hgt up`, then resume")
    pool.ended(training.run, "FAILED", parent="FAILED", cpu="CANCELLED")


# --- the server


@pytest.fixture(scope="module")
def without_server(pool, tmp_path_factory):
    """Two runs whose server is killed: one while its container of the pool works, one natively,
    before its memory runs out.
    """
    pool.hgt("up")
    native = RUN | {"num_epochs": 60, "max_shrinks": 0, "device": "cpu"}
    injected = out_of_memory(tmp_path_factory.mktemp("injected"), step=100)
    with pool.train(ENDLESS | IN_POOL) as in_pool:
        in_pool.says("epoch    1/")
        with pool.train(native, **injected) as handed_over:
            handed_over.says("epoch    1/")
            os.kill(pool.pid("prefect-server"), signal.SIGKILL)
            yield {"in pool": in_pool, "handed over": handed_over}


def test_the_server_is_killed_before_the_hand_over(pool, without_server):
    """The container is started directly and the run is whole; only Prefect cannot be told so."""
    training = without_server["handed over"]
    training.ends(1, "Prefect server .* Run `hgt up`")
    assert "OUT OF MEMORY" in training.said
    assert re.search(
        rf"WARNING: The Prefect server .* does not answer .*Run `hgt up`\.\n{DIRECTLY}",
        training.said,
    ), training.said
    pool.is_whole(training.run, 60)
    assert pool.mlflow(training.run)[1].data.tags["accepted"] == "true"


def test_the_server_is_killed(pool, without_server):
    """While a container of the pool works."""
    training = without_server["in pool"]
    training.ends(1, "Prefect server .* Run `hgt up`")
    assert pool.mlflow(training.run)[1].info.status == "FAILED"
    pool.hgt("up")
    for each in without_server.values():
        wait_for(
            lambda run=each.run: set(pool.states(run).values()) <= FINAL,
            20,
            f"{pool.states(each.run)}",
        )
        assert not pool.left_behind(each.run)
