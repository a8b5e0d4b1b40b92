"""Files of other formats, known by their first bytes, and the command that converts them.

In: a path and the first bytes. Out: nothing, or an InputError of one sentence.
"""

from __future__ import annotations

import re
from pathlib import Path

from hgt.errors import InputError

_PANDAS = "python -c \"import pandas; pandas.read_{kind}('{name}').to_parquet('kg.parquet')\""
_AS_CSV = "Save it as CSV in UTF-8 there and give that file."
_UNPACK = "Unpack it (`{command} {{name}}`) and give the file to read."
_RSCRIPT = (
    'Write it as CSV: `Rscript -e \'write.csv(readRDS("{name}"), "kg.csv", row.names = FALSE)\'`.'
)
_SQL = 'Write the table as CSV: `{command} {{name}} "select * from TABLE" > kg.csv`.'
_ARROW = f"Write it as Parquet: `{_PANDAS.replace('{kind}', 'feather')}`."
# first bytes, what the file is, what to do; {name} stands for the file's name
_FORMATS: tuple[tuple[bytes, str, str], ...] = (
    (b"SQLite format 3\x00", "an SQLite database", _SQL.format(command="sqlite3 -header -csv")),
    (b"ARROW1", "an Arrow (Feather) file", _ARROW),
    (b"FEA1", "a Feather file", _ARROW),
    (b"ORC", "an ORC file", f"Write it as Parquet: `{_PANDAS.replace('{kind}', 'orc')}`."),
    (b"PARE", "an encrypted Parquet file", "Write it without encryption."),
    (b"Obj\x01", "an Avro file", "Write it as Parquet or CSV with the program that wrote it."),
    (
        b"\x89HDF\r\n\x1a\n",
        "an HDF5 file",
        f"Write it as Parquet: `{_PANDAS.replace('{kind}', 'hdf')}`.",
    ),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook of the old form (.xls)", _AS_CSV),
    (b"X\n\x00\x00\x00", "an R object (RDS)", _RSCRIPT),
    (
        b"RDX",
        "an R workspace (RData)",
        "Write the table as CSV in R: `write.csv(kg, 'kg.csv', row.names = FALSE)`.",
    ),
    (b"\x93NUMPY", "a NumPy array", "Write the table as Parquet or CSV."),
    (
        b"\x80\x04",
        "a Python pickle",
        f"Write it as Parquet: `{_PANDAS.replace('{kind}', 'pickle')}`.",
    ),
    (
        b"\x80\x05",
        "a Python pickle",
        f"Write it as Parquet: `{_PANDAS.replace('{kind}', 'pickle')}`.",
    ),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK.format(command="7z x")),
    (b"Rar!", "a RAR archive", _UNPACK.format(command="unrar x")),
    (b"\x04\x22\x4d\x18", "packed by LZ4", _UNPACK.format(command="lz4 -d")),
    (b"\x1f\x9d", "packed by compress", _UNPACK.format(command="uncompress")),
    (b"%PDF", "a PDF document", "Give the table itself, as CSV or Parquet."),
    (b"\x89PNG", "a picture (it holds binary data)", "Give the table itself, as CSV or Parquet."),
    (
        b"version https://git-lfs",
        "a pointer of Git LFS, not the file itself",
        "Fetch the file: `git lfs pull`.",
    ),
)
_URL = re.compile(r"(?:^|/)((https?|ftp|s3|gs|hdfs|file):/+(.*))$", re.IGNORECASE | re.DOTALL)
_DOWNLOADS = {"s3": "aws s3 cp", "gs": "gcloud storage cp", "hdfs": "hdfs dfs -get"}


def refuse_url(path: Path) -> None:
    """Raise InputError for an address of the web or of a store. `Path` has turned its two slashes
    into one.
    """
    found = _URL.search(str(path))
    if found is None:
        return
    scheme, rest = found[2].lower(), found[3]
    if scheme == "file":
        raise InputError(f"{path}: is a URL, not a path. Give the path itself: /{rest.lstrip('/')}")
    url, name = f"{scheme}://{rest}", rest.rstrip("/").split("/")[-1].split("?")[0] or "kg.csv"
    command = (
        f"{_DOWNLOADS[scheme]} '{url}' {name}"
        if scheme in _DOWNLOADS
        else f"curl -L -o {name} '{url}'"
    )
    raise InputError(
        f"{url}: is a URL, not a file. Download it first (`{command}`), then give --kg {name}."
    )


def refuse_other_formats(path: Path, start: bytes, members: list[str] | None = None) -> None:
    """Raise InputError when the file has another format.

    start: the first bytes, unpacked.
    members: names of the files in a zip archive; None for other files.
    """
    if members is not None:
        if any(name.startswith("xl/") for name in members):
            raise InputError(f"{path}: is an Excel workbook, not a CSV file. {_AS_CSV}")
        if any(name in ("content.xml", "mimetype") for name in members):
            raise InputError(f"{path}: is an OpenDocument file, not a CSV file. {_AS_CSV}")
        return
    for magic, what, advice in _FORMATS:
        if magic.isalnum() and b"\x00" not in start:
            continue  # a name of a column may begin like that: ORCID, PARENT
        if start.startswith(magic):
            raise InputError(f"{path}: is {what}. {advice.replace('{name}', path.name)}")
    if start[257:262] == b"ustar":
        raise InputError(
            f"{path}: is a tar archive. Unpack it (`tar xf {path.name}`) and give the file to read."
        )
    if start[8:12] == b"DUCK":
        advice = f"`duckdb {path.name} \"copy TABLE to 'kg.parquet'\"`"
        raise InputError(f"{path}: is a DuckDB database. Write the table as Parquet: {advice}.")
    _refuse_other_text(path, start)


def _refuse_other_text(path: Path, start: bytes) -> None:
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()[:200].lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        raise InputError(
            f"{path}: is a web page (HTML), not a table: perhaps a login or error page was saved in"
            " its place. Open the address in a browser, then download the file itself."
        )
    if text.startswith(b"<?xml"):
        raise InputError(f"{path}: is XML, not a table. Write its edges as CSV, one a row.")
    if text.startswith((b"{", b"[{", b"[\n", b"[\r", b"[ ", b'["', b"[[")):
        lines = text.startswith(b"{") and b"}\n" in start.replace(b"\r", b"")
        more = ", lines=True" if lines else ""
        command = _PANDAS.format(kind="json", name=path.name).replace("')", f"'{more})", 1)
        raise InputError(f"{path}: is JSON, not a table. Write it as Parquet: `{command}`.")
    if text.startswith((b"@prefix", b"<http")):
        raise InputError(
            f"{path}: is RDF (Turtle or N-Triples), not a table. Write its edges as CSV, one a row."
        )
