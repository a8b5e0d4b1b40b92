"""A run that is stopped while it trains, natively or in the work pool's container: all of it ends,
and it goes on where it was.
"""

import signal
import time

import pytest

from tests.conftest import CHECKOUT, wait_for
from tests.docker.pool import ENDLESS
from tests.docker.test_container import checkpoint_is_whole

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]


def goes_on(pool, run, device):
    """From its last checkpoint, to a whole MLflow run."""
    checkpoint_is_whole(pool.folder(run))
    last = pool.epochs(run)[-1]
    with pool.train({"num_epochs": last + 1, "device": device}, resume=run) as resumed:
        resumed.ends(0, "ACCEPTED")
    assert "continuing after epoch" in resumed.said
    pool.is_whole(run, last + 1)


def is_gone_within(pool, run, seconds):
    began = time.monotonic()
    wait_for(lambda: not pool.left_behind(run), 60, f"the end of all of {run}")
    took = time.monotonic() - began
    print(f"all of it gone after {took:.1f} s")  # noqa: T201
    assert took < seconds


def test_ctrl_c_while_the_container_trains(pool):
    with pool.train(ENDLESS | {"device": "docker-cpu"}) as training:
        training.says("epoch    1/")
        training.child.send_signal(signal.SIGINT)
        is_gone_within(pool, training.run, 15)
        training.ends(130, f"Continue with: hgt train --resume {training.run}")
    pool.ended(training.run, "KILLED", parent="CRASHED", cpu="CANCELLED")
    goes_on(pool, training.run, "docker-cpu")


@pytest.mark.parametrize("when", ["created", "pending"])
def test_ctrl_c_while_the_run_is_dispatched(pool, when):
    """tests/interrupted: the run is on the server alone, or a worker starts it."""
    injected = {"HGT_INTERRUPT": when, "PYTHONPATH": str(CHECKOUT / "tests" / "interrupted")}
    with pool.train(ENDLESS | {"device": "docker-cpu"}, **injected) as training:
        training.ends(130, "Continue with: hgt train --resume")
    pool.ended(training.run, "KILLED", parent="CRASHED", cpu="CANCELLED")
    flows = pool.ask("flow_runs/filter", {"flow_runs": {"name": {"any_": [f"{training.run}-cpu"]}}})
    assert [flow["state_type"] for flow in flows] == ["CANCELLED"]


@pytest.mark.parametrize("device", ["cpu", "docker-cpu"])
def test_the_parent_is_cancelled_in_the_ui(pool, device):
    run = f"cancelled-{device}"
    deployment = pool.ask("deployments/name/hgt-embeddings/native")["id"]
    values = ENDLESS | {"baselines": ["none"], "kg": str(pool.kg), "run_id": run, "device": device}
    asked = {"parameters": values, "state": {"type": "SCHEDULED"}}
    parent = pool.ask(f"deployments/{deployment}/create_flow_run", asked)["id"]
    wait_for(
        lambda: pool.folder(run).events.exists() and pool.epochs(run), 240, f"an epoch of {run}"
    )
    pool.ask(f"flow_runs/{parent}/set_state", {"state": {"type": "CANCELLING"}})
    is_gone_within(pool, run, 15)
    expected = {"parent": "CANCELLED"} | ({"cpu": "CANCELLED"} if device == "docker-cpu" else {})
    pool.ended(run, "KILLED", **expected)
    goes_on(pool, run, "cpu")
