"""Where runs lie, and which names of them are understood."""

from importlib.metadata import EntryPoint

import pytest

from hgt.config import RunConfig
from hgt.errors import InputError
from tasks import home as home_module
from tasks.home import check_home, check_store, find_run, hgt_home


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home that is reached through a link, as /tmp is on macOS, with one run."""
    (tmp_path / "real" / "runs" / "mine").mkdir(parents=True)
    RunConfig().save(tmp_path / "real" / "runs" / "mine" / "config.json")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.setenv("HGT_HOME", str(tmp_path / "link"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "given", ["mine", "link/runs/mine", "real/runs/mine", "./real/../link/runs/mine"]
)
def test_a_run_is_found_by_id_and_by_any_path(home, given):
    assert find_run(given) == "mine"
    assert find_run(str(home / given) if "/" in given else given) == "mine"


def test_other_runs_are_refused(home):
    (home / "elsewhere" / "yours").mkdir(parents=True)
    RunConfig().save(home / "elsewhere" / "yours" / "config.json")
    with pytest.raises(InputError, match="lies outside"):
        find_run("elsewhere/yours")
    with pytest.raises(InputError, match=r"no such run in .*; the newest are mine"):
        find_run("ours")


@pytest.mark.parametrize("name", ["a%41", "why?", "x/%20/y"])
def test_homes_that_databases_would_take_for_others_are_refused(monkeypatch, tmp_path, name):
    monkeypatch.setenv("HGT_HOME", str(tmp_path / name))
    with pytest.raises(InputError, match="which database URLs do not allow"):
        hgt_home()


def test_odd_homes_that_work(monkeypatch, tmp_path):
    for name in ("100 % of #7", "mit Lücke"):
        monkeypatch.setenv("HGT_HOME", str(tmp_path / name))
        assert hgt_home() == tmp_path / name


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("file:///nowhere/mlruns", "maintenance mode"),
        ("mlruns", "maintenance mode"),
        ("htp://127.0.0.1:5000", "does not know this kind of store"),
        ("postgre://there/mlflow", "does not know this kind of store"),
        ("sqlite:///{}/notes.txt", "file is not a database"),
        ("sqlite:///{}", "unable to open database file"),
    ],
)
def test_a_store_that_will_never_answer_is_refused_before_anything_starts(
    tmp_path, monkeypatch, uri, reason
):
    (tmp_path / "notes.txt").write_text("notes " * 1_000)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(tmp_path))
    with pytest.raises(InputError, match=reason):
        check_store()


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "http://127.0.0.1:9",
        "sqlite:///{}/new.db",
        "databricks",
        "databricks://mine",
        "HTTPS://there",
        "postgresql+psycopg2://there/mlflow",
        "postgresql://there/mlflow",
    ],
)
def test_a_store_that_may_answer_is_not_refused(tmp_path, monkeypatch, uri):
    monkeypatch.setenv("HGT_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(tmp_path))
    check_store()


def test_a_store_of_another_package_is_not_refused(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "theirs://there")
    entry = EntryPoint("theirs", "package:Store", "mlflow.tracking_store")
    monkeypatch.setattr(
        home_module, "entry_points", lambda group: [entry] if group == entry.group else []
    )
    check_store()


def test_a_home_that_can_be_made_is_not_there_yet(monkeypatch, tmp_path):
    monkeypatch.setenv("HGT_HOME", str(tmp_path / "new" / "home"))
    check_home()
    assert not list(tmp_path.iterdir())
