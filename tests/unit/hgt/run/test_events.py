"""`events.jsonl` on a disk without room: a file-size limit stands for it, whose writes end short in
the same way.
"""

import pytest

from hgt.errors import is_disk_full
from hgt.run.events import EventReader, EventWriter


def test_a_line_without_room_is_an_error_and_the_next_one_starts_afresh(tmp_path, room):
    path = tmp_path / "events.jsonl"
    writer = EventWriter(path)
    writer("first")
    for extra in (20, 0):  # half a line, then none of it
        room(path.stat().st_size + extra)
        with pytest.raises(OSError) as caught:
            writer("lost", figures="x" * 100)
        assert is_disk_full(caught.value)
        room(None)
    writer("second")
    writer.close()
    assert [e["event"] for e in EventReader(path).new()] == ["first", "second"]


def test_a_writer_goes_on_after_a_killed_ones_broken_line(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"event": "first", "time": 1}\n{"event": "bro')
    writer = EventWriter(path)
    writer("second")
    writer("third")
    writer.close()
    assert [e["event"] for e in EventReader(path).new()] == ["first", "second", "third"]
