"""The work pool that `hgt up` starts, for the tests of a file."""

import pytest

from tests.docker.pool import Pool
from tests.relay import Relay


@pytest.fixture(scope="module")
def pool(tmp_path_factory, worker_image, small_kg, docker_engine, one_prefect_server):
    from tasks.execution.engine import engine_address

    relay = Relay(engine_address().removeprefix("unix://"))
    pool = Pool(tmp_path_factory.mktemp("pool") / "home", small_kg, docker_engine, relay)
    one_prefect_server.save_migrations(pool.home)
    try:
        pool.hgt("up", *pool.ports)
        yield pool
    finally:
        pool.hgt("down")
        relay.cut()
        left = docker_engine.containers.list(
            all=True, filters={"label": f"hgt.services={pool.home}"}, ignore_removed=True
        )
        assert not left
        assert not list((pool.home / "services").glob("*.json"))
