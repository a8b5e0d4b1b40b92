"""A real MLflow server that goes away in the middle of a run, and comes back."""

import contextlib
import threading

import mlflow
import pytest
from mlflow.server import app
from mlflow.server.handlers import initialize_backend_stores
from werkzeug.serving import make_server

from hgt.config import RunConfig
from hgt.run.folder import RunFolder
from tasks.tracking import tracker as tracking
from tasks.tracking.delivery import Patience
from tasks.tracking.tracker import catch_up, tracked
from tests.conftest import free_port
from tests.unit.tasks.tracking.test_tracker import EPOCH


@pytest.fixture
def server(tmp_path):
    """`with server.running():` MLflow's own application answers in a thread, always on the same
    port and store.
    """
    initialize_backend_stores(
        f"sqlite:///{tmp_path}/server.db", default_artifact_root=(tmp_path / "artifacts").as_uri()
    )
    return Server(free_port())


class Server:
    def __init__(self, port):
        self.port, self.uri = port, f"http://127.0.0.1:{port}"

    @contextlib.contextmanager
    def running(self):
        server = make_server("127.0.0.1", self.port, app, threaded=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


@pytest.mark.filterwarnings("ignore:starlette.middleware.wsgi is deprecated")
def test_a_server_that_goes_away_stops_nothing_and_gets_everything_once(
    server, tmp_path, monkeypatch
):
    monkeypatch.setenv("HGT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    said = []
    monkeypatch.setattr(tracking, "say", said.append)
    for name in ("_NOTICE", "_START", "_END"):
        monkeypatch.setattr(tracking, name, Patience(0.5, 20.0))
    (tmp_path / "run").mkdir()
    folder = RunFolder(tmp_path / "run")
    RunConfig().save(folder.config)
    with contextlib.ExitStack() as up:
        up.enter_context(server.running())
        with tracked(folder) as tracker:
            tracker.epoch(EPOCH)
            assert tracker._delivery.wait(Patience(10, 20))
            up.close()
            tracker.epoch(EPOCH | {"epoch": 2})
            tracker.artifacts(folder.config)
    assert "The run continues" in said[0]
    assert "(epoch, files, its end): Connection refused. The run folder keeps it" in said[-1]
    with tracked(folder) as tracker:  # a resume that begins without it
        tracker.epoch(EPOCH | {"epoch": 3})
    assert "does not answer (Connection refused)" in said[-3]
    assert "Training begins without MLflow" in said[-2]
    with server.running():
        assert catch_up(folder)[1] == ""
        client = mlflow.MlflowClient(server.uri)
        run_id = (folder.path / "mlflow_run_id").read_text().strip()
        for metric in ("loss", "step_seconds"):
            assert [m.step for m in client.get_metric_history(run_id, metric)] == [1, 2, 3]
        assert client.get_run(run_id).info.status == "FINISHED"
        assert [artifact.path for artifact in client.list_artifacts(run_id)] == ["config.json"]
