"""Files that a command writes for its user: never over what it reads, nor over what it did not
write.

In: a path that was given. Out: the place to write to, or an InputError at once. Knows nothing of
what is written.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hgt.errors import InputError
from hgt.whole_file import written_whole

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}
_NO_CSV = (".parquet", ".gz", ".bz2", ".xz", ".zst", ".zip")
_OF_THE_SYSTEM = (Path("/proc"), Path("/sys"), Path("/dev"))
_IN_MEMORY = Path("/dev/shm")


def claim_output(
    path: Path, reads: Iterable[Path] = (), overwrite: bool = False, record: Path | None = None
) -> Path:
    """Where `path` leads, links followed, if a command may write there. Writes nothing.

    reads: files that the command reads, and folders that it reads from or keeps files in
    overwrite: whether a file that is there may be replaced; a file of `reads` never may
    record: where `remember_outputs` tells what was written before; that may be replaced
    Raises InputError for anything but the name of a file that can be written in a folder.
    """
    try:
        there = _stat(path)
        place = path.resolve()
        folder = _stat(place.parent)
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, a loop of links, NUL
        why = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{path}: cannot be written ({why}). Give another path.") from error
    if there is not None and not stat.S_ISREG(there.st_mode):
        kind = _KINDS.get(stat.S_IFMT(there.st_mode), "no file")
        raise InputError(f"{path}: is {kind}. Give the path of a file.")
    if folder is None or not stat.S_ISDIR(folder.st_mode):
        raise InputError(f"{path}: its folder does not exist. Create it, or give another path.")
    if place.is_relative_to(_IN_MEMORY) is False and any(map(place.is_relative_to, _OF_THE_SYSTEM)):
        raise InputError(f"{path}: belongs to the system. Give the path of a file.")
    _refuse_what_is_read(path, place, there, reads)
    if there is not None and not overwrite and not _is_remembered(place, there, record):
        raise InputError(
            f"{path}: is there already, and this command did not write it. Give another name, or"
            " --overwrite to replace it."
        )
    _try_to_write(path, place)
    return place


def claim_csv(
    path: Path, reads: Sequence[Path] = (), overwrite: bool = False, record: Path | None = None
) -> tuple[Path, Path]:
    """Where a table of embeddings goes: its CSV, and beside it the relations. As `claim_output`."""
    if path.suffix in _NO_CSV:
        raise InputError(f"{path}: would hold a CSV under another kind's name. Let it end in .csv.")
    place = claim_output(path, reads, overwrite, record)
    return place, claim_output(relations_of(place), reads, overwrite, record)


def relations_of(csv: Path) -> Path:
    """Several CSVs may lie in one folder, each with its own."""
    return csv.with_name(f"{csv.stem}.relations.parquet")


@contextmanager
def output_written_whole(place: Path) -> Iterator[Path]:
    """A new file beside `place`, which takes its name at the end of the block, or is removed.

    Unlike `written_whole` it never takes a name that somebody else's file may have.
    """
    new = _new_file(place.parent)
    try:
        yield new
        new.replace(place)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def remember_outputs(record: Path, files: Mapping[Path, Path]) -> None:
    """Add to `record` that the files are this command's own. files: {place: the file as it is now}

    A file keeps what is remembered of it when it is renamed to its place; a kill in between costs
    nothing.
    """
    new = [[str(place), *_state(file.stat())] for place, file in files.items()]
    text = json.dumps([*_remembered(record), *new], indent=2)
    with written_whole(record) as whole:
        whole.write_text(text + "\n")


def _stat(path: Path) -> os.stat_result | None:
    """None where nothing is there."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _state(found: os.stat_result) -> list[int]:
    return [found.st_ino, found.st_size, found.st_mtime_ns]


def _remembered(record: Path | None) -> list[list[object]]:
    """What was written before; an unreadable record remembers nothing, so that nothing is
    replaced.
    """
    if record is None or not record.is_file():
        return []
    with contextlib.suppress(OSError, ValueError, RecursionError):
        entries = json.loads(record.read_text())
        return (
            [entry for entry in entries if isinstance(entry, list)]
            if isinstance(entries, list)
            else []
        )
    return []


def _is_remembered(place: Path, there: os.stat_result, record: Path | None) -> bool:
    return [str(place), *_state(there)] in _remembered(record)


def _refuse_what_is_read(
    path: Path, place: Path, there: os.stat_result | None, reads: Iterable[Path]
) -> None:
    around = [found for parent in place.parents if (found := _stat(parent))]
    for read in reads:
        found = _stat(read)
        same = there is not None and found is not None and os.path.samestat(there, found)
        if same or place == read.resolve():
            raise InputError(
                f"{path}: is {read}, which this command reads or keeps itself. Give another path."
            )
        if found is not None and any(os.path.samestat(found, parent) for parent in around):
            raise InputError(
                f"{path}: lies in {read}, where this command has files of its own. Give a path"
                " outside of it."
            )
    for parent in place.parents:
        if (parent / "config.json").is_file() and (parent / "graph" / "graph.json").is_file():
            raise InputError(f"{path}: lies in the run folder {parent}. Give a path outside of it.")


def _try_to_write(path: Path, place: Path) -> None:
    """A right to write shows when something is written: root has every right but on some disks."""
    try:
        _new_file(place.parent).unlink()
    except OSError as error:
        raise InputError(
            f"{path}: its folder cannot be written to ({error.strerror}). Give another path, or"
            " this user the right to write there."
        ) from error


def _new_file(folder: Path) -> Path:
    """An empty file of a name that nothing else has, with the rights that a new file gets here."""
    new = folder / f".hgt-{secrets.token_hex(8)}.new"
    os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return new
