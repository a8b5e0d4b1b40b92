"""Where a command may write: over nothing that it reads, nor over what it did not write."""

import os
import socket

import pytest

from hgt.errors import InputError
from hgt.graph.demo_graph import write_demo_graph
from hgt.output_file import claim_csv, claim_output, output_written_whole, remember_outputs


@pytest.fixture
def kg(tmp_path):
    path = tmp_path / "kg.csv"
    path.write_text("the user's graph")
    return path


def spellings(kg):
    """The same file under other names."""
    (kg.parent / "folder").mkdir()
    (kg.parent / "link.csv").symlink_to(kg)
    (kg.parent / "link to a link.csv").symlink_to(kg.parent / "link.csv")
    (kg.parent / "hard.csv").hardlink_to(kg)
    (kg.parent / "elsewhere").symlink_to(kg.parent)
    return [
        kg,
        kg.parent / "folder" / ".." / "kg.csv",
        kg.parent / "link.csv",
        kg.parent / "link to a link.csv",
        kg.parent / "hard.csv",
        kg.parent / "elsewhere" / "kg.csv",
    ]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_read_is_never_written_over(kg, overwrite):
    for path in spellings(kg):
        with pytest.raises(InputError, match=r"which this command reads"):
            claim_output(path, [kg], overwrite)
    with pytest.raises(InputError, match=r"lies in .* files of its own"):
        claim_output(kg.parent / "new.csv", [kg.parent], overwrite)
    with pytest.raises(InputError, match=r"lies in .* files of its own"):
        claim_output(kg.parent / "folder" / "new.csv", [kg.parent], overwrite)
    assert kg.read_text() == "the user's graph"


def test_the_relations_beside_a_csv_are_an_output_too(kg):
    beside = kg.with_name("e.relations.parquet")
    with pytest.raises(InputError, match="which this command reads"):
        claim_csv(kg.with_name("e.csv"), [beside], overwrite=True)
    beside.write_text("somebody's")
    with pytest.raises(InputError, match=r"e\.relations\.parquet: is there already"):
        claim_csv(kg.with_name("e.csv"))
    assert claim_csv(kg.with_name("e.csv"), overwrite=True) == (kg.with_name("e.csv"), beside)
    with pytest.raises(InputError, match=r"end in \.csv"):
        claim_csv(kg.with_name("e.parquet"))


def test_a_file_that_is_there_is_replaced_on_demand_alone(kg):
    with pytest.raises(InputError, match=r"is there already.*--overwrite"):
        claim_output(kg)
    assert claim_output(kg, overwrite=True) == kg
    new = kg.with_name("new.csv")
    assert claim_output(new) == new
    assert not new.exists()
    assert [p.name for p in kg.parent.iterdir()] == ["kg.csv"]


def test_a_link_to_nowhere_is_followed(kg):
    link = kg.with_name("link.csv")
    link.symlink_to(kg.with_name("target.csv"))
    assert claim_output(link) == kg.with_name("target.csv")


def test_devices_pipes_sockets_and_folders_are_no_outputs(tmp_path, kg):
    os.mkfifo(tmp_path / "fifo")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "s"))
    for path, kind in (
        ("/dev/null", "a device"),
        (tmp_path / "fifo", "a pipe"),
        (tmp_path / "s", "a socket"),
        (tmp_path, "a folder"),
        ("", "a folder"),
    ):
        for overwrite in (False, True):
            with pytest.raises(InputError, match=f"is {kind}"):
                claim_output(type(tmp_path)(path), overwrite=overwrite)
    listening.close()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/proc/new.csv", "belongs to the system|its folder does not exist"),
        ("/proc/self/new.csv", "belongs to the system|its folder does not exist"),
        ("/dev/new.csv", "belongs to the system"),
        ("no/such/folder.csv", "its folder does not exist"),
        ("kg.csv/new.csv", "its folder does not exist"),
        ("a" * 300, "File name too long"),
        ("nul\0byte", "null"),
        ("loop/new.csv", "cannot be written|its folder does not exist"),
        ("loop", "cannot be written|its folder does not exist|cannot be written to"),
    ],
)
def test_names_that_no_file_can_have(tmp_path, kg, name, words):
    del kg
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(InputError, match=words):
        claim_output(tmp_path / name)


def test_a_folder_that_may_not_be_written_to(tmp_path, monkeypatch):
    """Root may write everywhere, and these tests may run as root."""

    def refused(*arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(InputError, match=r"cannot be written to \(Permission denied\)"):
        claim_output(tmp_path / "new.csv")


def test_what_lies_in_a_run_folder_is_left_alone(tmp_path):
    (tmp_path / "run" / "graph").mkdir(parents=True)
    (tmp_path / "run" / "config.json").touch()
    (tmp_path / "run" / "graph" / "graph.json").touch()
    for path in ("run/e.csv", "run/graph/e.csv", "run/config.json"):
        with pytest.raises(InputError, match="lies in the run folder"):
            claim_output(tmp_path / path, overwrite=True)


def test_a_command_may_replace_what_it_wrote_itself(kg):
    record, place = kg.with_name("outputs.json"), kg.with_name("e.csv")
    with output_written_whole(place) as new:
        new.write_text("first")
        remember_outputs(record, {place: new})
    assert claim_output(place, record=record) == place
    with output_written_whole(place) as new:
        new.write_text("second")
        remember_outputs(record, {place: new})
    assert claim_output(place, record=record) == place
    with pytest.raises(InputError, match="is there already"):
        claim_output(place)
    place.write_text("the user's notes")
    with pytest.raises(InputError, match="is there already"):
        claim_output(place, record=record)
    for damage in ("no json", "{}", "[1, [2]]", "[" * 100_000):
        record.write_text(damage)
        with pytest.raises(InputError, match="is there already"):
            claim_output(place, record=record)


def test_a_kill_between_the_record_and_the_file_leaves_both_known(kg):
    record, place = kg.with_name("outputs.json"), kg.with_name("e.csv")
    with output_written_whole(place) as new:
        new.write_text("first")
        remember_outputs(record, {place: new})
    unfinished = kg.with_name("unfinished")
    unfinished.write_text("second")
    remember_outputs(record, {place: unfinished})
    assert claim_output(place, record=record) == place, "the first is still its own"
    unfinished.replace(place)
    assert claim_output(place, record=record) == place


def test_an_output_is_whole_or_not_there(kg):
    place, somebody = kg.with_name("e.csv"), kg.with_name("e.csv.new")
    somebody.write_text("somebody's")
    with pytest.raises(ZeroDivisionError), output_written_whole(place) as new:
        new.write_text("half")
        raise ZeroDivisionError
    assert sorted(p.name for p in kg.parent.iterdir()) == ["e.csv.new", "kg.csv"]
    old = os.umask(0o022)
    try:
        with output_written_whole(place) as new:
            new.write_text("whole")
    finally:
        os.umask(old)
    assert (place.read_text(), somebody.read_text()) == ("whole", "somebody's")
    assert place.stat().st_mode & 0o777 == 0o644


def test_the_demo_graph_replaces_nothing_unasked(kg):
    with pytest.raises(InputError, match="is there already"):
        write_demo_graph(kg, 300, 1_000, 4, 0)
    assert kg.read_text() == "the user's graph"
    assert write_demo_graph(kg, 300, 1_000, 4, 0, overwrite=True) > 1_000
