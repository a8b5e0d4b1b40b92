"""Every packing, encoding and arrangement of one table reads the same; what is no table is named
for what it is.
"""

import bz2
import gzip
import lzma
import re
import sqlite3
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pytest

from hgt.config import GraphConfig
from hgt.errors import InputError
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.reading import edge_files
from hgt.reading.edge_table import read_beginning, read_edge_table

COLUMNS = ["x_type", "x_id", "relation", "y_type", "y_id", "x_name", "y_name"]
ROWS = pd.DataFrame(
    [("drug", str(i), "treats", "disease", str(i % 3), f"d {i}", f"é, {i % 3}") for i in range(9)],
    columns=COLUMNS,
)
TEXT = ROWS.to_csv(index=False)
UTF8 = TEXT.encode()
HEADER = ",".join(COLUMNS).encode()


def told(path):
    read_beginning(path)
    table = read_edge_table(path)
    graph = KnowledgeGraph.from_edge_table(table, GraphConfig())
    return table.num_rows, graph.hash, {t: n.tolist() for t, n in graph.node_names.items()}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    path = tmp_path_factory.mktemp("plain") / "kg.csv"
    path.write_bytes(UTF8)
    return told(path)


@pytest.fixture
def refusal(tmp_path):
    def message(data, name="kg.csv"):
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError) as caught:
            read_beginning(tmp_path / name)
        return str(caught.value)

    return message


def zipped(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name.replace("|", "/"), data)
    return path.read_bytes()


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(UTF8, mtime=0),
        bz2.compress(UTF8),
        lzma.compress(UTF8),
        pa.compress(UTF8, codec="zstd", asbytes=True),
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        TEXT.encode("utf-16-le"),
        TEXT.encode("utf-16-be"),
        TEXT.encode("utf-32"),
        gzip.compress(TEXT.encode("utf-16"), mtime=0),
        ROWS.to_csv(index=False, sep="\t").encode(),
        ROWS.to_csv(index=False, sep=";").encode(),
        UTF8.replace(HEADER, b"ORCID," + HEADER).replace(b"\ndrug", b"\n0,drug"),
        UTF8.replace(b"\n", b"\r\n"),
        UTF8.replace(HEADER, b" X_Type,\tX_ID ,relation , Y_TYPE,y_id\xc2\xa0,x_name,y_name"),
    ],
)
def test_packings_encodings_and_delimiters(tmp_path, plain, data):
    (tmp_path / "kg.tab").write_bytes(data)
    assert told(tmp_path / "kg.tab") == plain


def test_text_in_another_encoding_in_blocks_of_any_size(tmp_path, plain, monkeypatch):
    for block_bytes in (1, 3, 50):
        monkeypatch.setattr("hgt.reading.csv_text._BLOCK_BYTES", block_bytes)
        (tmp_path / "kg.csv").write_bytes(TEXT.encode("utf-16"))
        assert told(tmp_path / "kg.csv") == plain


def test_a_zip_of_one_file_is_read_and_others_are_named(tmp_path, plain, refusal):
    zipped(tmp_path / "kg.zip", **{"kg.csv": UTF8, "__MACOSX|._kg.csv": b"x", "a|.DS_Store": b"x"})
    assert told(tmp_path / "kg.zip") == plain
    assert (
        "is a zip archive of 2 files (a.csv, b.csv); one is expected. Unpack it (`unzip kg.csv`)"
        in refusal(zipped(tmp_path / "two", **{"a.csv": UTF8, "b.csv": UTF8}))
    )
    assert "zip archive of no file" in refusal(zipped(tmp_path / "none"))
    assert "is an Excel workbook" in refusal(
        zipped(tmp_path / "x", **{"[Content_Types].xml": b"", "xl|workbook.xml": b""})
    )
    assert "is an OpenDocument file" in refusal(
        zipped(tmp_path / "x", **{"mimetype": b"", "content.xml": b""})
    )
    whole = zipped(tmp_path / "one", **{"kg.csv": UTF8})
    for damaged in (whole[:90], whole[:60] + b"\xff\xff" + whole[62:]):
        assert "the zip data is damaged" in refusal(damaged)


@pytest.mark.parametrize(
    "pack",
    [bz2.compress, lzma.compress, lambda data: pa.compress(data, codec="zstd", asbytes=True)],
)
def test_packed_data_that_breaks_off_is_damaged(refusal, pack):
    assert "data is damaged" in refusal(pack(UTF8 * 30)[:-9])


def test_utf16_that_breaks_off_is_damaged(refusal):
    assert "is damaged UTF-16 or UTF-32" in refusal(TEXT.encode("utf-16")[:-1])


def test_a_folder_of_parts(tmp_path, plain):
    for kind in ("parquet", "csv"):
        (folder := tmp_path / kind).mkdir()
        for i, rows in enumerate((ROWS[4:], ROWS[:4])):
            path = folder / f"part-{1 - i:05}.{kind}"
            rows.to_parquet(path) if kind == "parquet" else rows.to_csv(path, index=False)
        (folder / "_SUCCESS").touch()
        (folder / ".part-00000.crc").write_bytes(b"x")
        assert told(folder) == plain
        assert [c.rows for c in read_edge_table(folder).counts] == [4, 5]
    ROWS.drop(columns="x_name").to_parquet(tmp_path / "parquet" / "part-00002.parquet")
    with pytest.raises(
        InputError,
        match=r"part-00002.parquet: has other columns than part-00000.parquet \(x_name\)",
    ):
        read_beginning(tmp_path / "parquet")


def test_the_first_look_reads_a_few_megabytes_of_all_parts_together(tmp_path, monkeypatch):
    for i in range(3):
        ROWS.to_csv(tmp_path / f"part-{i}.csv", index=False)
    monkeypatch.setattr("hgt.reading.edge_table._FIRST_LOOK_BYTES", 1)
    with (tmp_path / "part-1.csv").open("a") as file:
        file.write("drug,1\n")
    read_beginning(tmp_path)
    with pytest.raises(InputError, match=r"part-1\.csv: row 10 has 2 columns"):
        read_edge_table(tmp_path)


def test_columns_in_the_names_of_folders(tmp_path):
    for relation in ("treats%20%2F", "01", "__HIVE_DEFAULT_PARTITION__"):
        (folder := tmp_path / f"relation={relation}").mkdir()
        ROWS.drop(columns="relation").to_parquet(folder / "part-0.parquet")
    with pytest.raises(InputError, match="column relation is empty"):
        read_edge_table(tmp_path)
    (folder / "part-0.parquet").unlink()
    assert sorted(read_edge_table(tmp_path).relations) == ["01", "treats /"]


def test_other_folders_are_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="is a folder with no files"):
        read_beginning(tmp_path)
    (tmp_path / "a.txt").touch()
    with pytest.raises(InputError, match=r"is a folder with no such parts \(a.txt\)"):
        read_beginning(tmp_path)
    monkeypatch.setattr(edge_files, "_MOST_FILES", 0)
    with pytest.raises(InputError, match="more than 0 files"):
        read_beginning(tmp_path)


NODES = pd.DataFrame(
    [(i, str(i), "drug", f"d {i}", "DB") for i in range(9)]
    + [(9 + i, str(i), "disease", f"é, {i}", "M") for i in range(3)],
    columns=["node_index", "node_id", "node_type", "node_name", "node_source"],
)
PAIRS = pd.DataFrame(
    [("treats", "t", i, 9 + i % 3) for i in range(9)],
    columns=["relation", "display_relation", "x_index", "y_index"],
)


def test_primekgs_nodes_and_edges(tmp_path, plain):
    edges = tmp_path / "edges.csv"
    PAIRS.to_csv(edges, index=False)
    with pytest.raises(InputError, match=r"has no nodes\.csv"):
        read_beginning(edges)
    NODES.to_csv(tmp_path / "nodes.csv", index=False)
    assert told(edges) == told(tmp_path) == plain
    assert [c.path.name for c in read_edge_table(tmp_path).counts] == ["edges.csv", "nodes.csv"]
    with pytest.raises(InputError, match="is a table of nodes"):
        read_beginning(tmp_path / "nodes.csv")
    (tmp_path / "nodes.csv").rename(tmp_path / "nodes.tab")
    NODES.to_csv(tmp_path / "nodes.tab", index=False, sep="\t")
    assert told(edges) == plain


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda n: n.drop(index=[4]), r"x_index '4' is no node_index of nodes\.csv"),
        (lambda n: pd.concat([n, n[3:4]]), "node_index 3 has more than one row"),
        (
            lambda n: n.replace({"node_type": {"disease": ""}}),
            r"nodes\.csv: column node_type is empty in row 10",
        ),
        (lambda n: n[:0], "header line but no rows"),
    ],
)
def test_nodes_that_do_not_fit_the_edges(tmp_path, change, what):
    PAIRS.to_csv(tmp_path / "edges.csv", index=False)
    change(NODES).to_csv(tmp_path / "nodes.csv", index=False)
    with pytest.raises(InputError, match=what):
        read_beginning(tmp_path)


@pytest.mark.parametrize(
    ("data", "what", "command"),
    [
        (gzip.compress(b"X\n\x00\x00\x00\x03\x00", mtime=0), "an R object (RDS)", "Rscript"),
        (b"\n<!DOCTYPE html>\n<html>", "a web page (HTML)", "download the file itself"),
        (b"<?xml version='1.0'?><graphml/>", "is XML", "as CSV"),
        (ROWS.to_json(orient="records").encode(), "is JSON", "pandas.read_json('kg.csv')"),
        (
            ROWS.to_json(orient="records", lines=True).encode(),
            "is JSON",
            "pandas.read_json('kg.csv', lines=True)",
        ),
        (b"<http://a> <http://b> <http://c> .\n", "is RDF", "as CSV"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:a\n",
            "a pointer of Git LFS",
            "git lfs pull",
        ),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel workbook", "as CSV"),
        (b"7z\xbc\xaf\x27\x1c\x00", "a 7z archive", "7z x kg.csv"),
        (b"\x00" * 8 + b"DUCK" + b"\x00" * 50, "a DuckDB database", "duckdb kg.csv"),
    ],
)
def test_other_formats_are_named_with_the_command_that_helps(refusal, data, what, command):
    said = refusal(data)
    assert what in said
    assert command in said
    assert "\n" not in said


def test_files_of_other_programs_are_named(tmp_path, refusal):
    sqlite = sqlite3.connect(tmp_path / "kg.db")
    sqlite.execute("create table t(a)")
    sqlite.close()
    assert "is an SQLite database. Write the table as CSV: `sqlite3 -header -csv kg.db" in refusal(
        None, "kg.db"
    )
    pyarrow.feather.write_feather(ROWS, tmp_path / "kg.feather")
    assert "is an Arrow (Feather) file" in refusal(None, "kg.feather")
    ROWS.to_pickle(tmp_path / "kg.pkl")
    assert "is a Python pickle" in refusal(None, "kg.pkl")
    np.save(tmp_path / "kg.npy", np.zeros(3))
    assert "is a NumPy array" in refusal(None, "kg.npy")
    with tarfile.open(tmp_path / "kg.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "kg.npy", "kg.csv")
    assert "is a tar archive. Unpack it (`tar xf kg.tar.gz`)" in refusal(None, "kg.tar.gz")
    ROWS.to_parquet(tmp_path / "kg.parquet")
    assert "is a Parquet file packed by gzip" in refusal(
        gzip.compress((tmp_path / "kg.parquet").read_bytes())
    )


@pytest.mark.parametrize(
    ("url", "command"),
    [
        (
            "https://dataverse.harvard.edu/api/access/datafile/6180620",
            "curl -L -o 6180620 'https://dataverse.harvard.edu/api",
        ),
        ("HTTP://example.org/kg.csv?a=1", "curl -L -o kg.csv 'http://example.org/kg.csv?a=1'"),
        ("s3://bucket/kg.parquet", "aws s3 cp 's3://bucket/kg.parquet' kg.parquet"),
        ("file:///data/kg.csv", "Give the path itself: /data/kg.csv"),
    ],
)
def test_an_address_is_named_for_what_it_is(url, command):
    for path in (Path(url), Path(url).absolute()):
        with pytest.raises(InputError, match="is a URL") as caught:
            read_beginning(path)
        assert command in str(caught.value)


def test_a_file_that_is_cut_off_says_so(tmp_path, refusal):
    assert "It is the file's last row: the file looks cut off" in refusal(UTF8[:-20])
    lines = UTF8.split(b"\n")
    assert "cut off" not in refusal(b"\n".join([*lines[:4], b"drug,1", *lines[4:]]))
    assert "cut off" in refusal(UTF8[:-3])  # within quotes


@pytest.mark.parametrize(
    "other", ["part-1.parquet", "part-1.csv", "sub/part-1.parquet.gz", "Data.CSV"]
)
def test_a_folder_with_a_part_that_is_not_read_is_refused(tmp_path, other):
    ROWS.to_parquet(tmp_path / "part-0.parquet")
    (tmp_path / "README.md").write_text("What this is.")
    read_edge_table(tmp_path)
    (tmp_path / other).parent.mkdir(exist_ok=True)
    (tmp_path / other).write_bytes(b"\0" * 100)
    with pytest.raises(
        InputError,
        match=rf"{re.escape(other)} is no part that can be read with the others \(Parquet\)",
    ):
        read_edge_table(tmp_path)


def test_a_folder_of_csv_parts_reads_all_or_none(tmp_path, plain):
    (tmp_path / "Part-0.csv").write_bytes(UTF8)
    assert told(tmp_path) == plain
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "part-1.csv").write_bytes(UTF8)
    with pytest.raises(
        InputError, match=r"sub/part-1\.csv is no part that can be read with the others"
    ):
        read_edge_table(tmp_path)


@pytest.mark.parametrize("half", ["edges", "nodes"])
def test_of_several_halves_none_is_guessed(tmp_path, half):
    (tmp_path / "edges.csv").write_text("x_index,y_index,relation\n0,1,treats\n")
    (tmp_path / "nodes.csv").write_text("node_index,node_id,node_type\n0,a,drug\n1,b,disease\n")
    (tmp_path / f"{half}.bak.csv").write_text("no such thing")
    (tmp_path / f"{half}.README").write_text("no such thing")
    assert read_edge_table(tmp_path).num_rows == 1
    for name in (f"{half}.tsv", f"{half}.txt"):
        (tmp_path / name).write_text("no such thing")
    (tmp_path / f"{half}.csv").rename(tmp_path / f"{half}.parquet")
    with pytest.raises(
        InputError,
        match=rf"holds {half}\.parquet, {half}\.tsv, {half}\.txt; one of them is expected",
    ):
        read_edge_table(tmp_path)


@pytest.mark.parametrize("pack", [bz2.compress, lzma.compress])
def test_what_follows_a_packed_stream_is_read_or_refused(tmp_path, plain, pack):
    path, half = tmp_path / "kg.csv", len(UTF8) // 2
    path.write_bytes(pack(UTF8[:half]) + pack(UTF8[half:]))
    assert told(path) == plain
    for end in (b"XX" + pack(UTF8[half:])[2:], b"garbage", pack(UTF8[half:])[:-3]):
        path.write_bytes(pack(UTF8[:half]) + end)
        with pytest.raises(InputError, match="data is damaged"):
            read_edge_table(path)


def test_indices_that_pandas_wrote_as_floats(tmp_path):
    (tmp_path / "nodes.csv").write_text(
        "node_index,node_id,node_type,node_name\n0,a,drug,A\n1,b,disease,B\n"
    )
    (tmp_path / "edges.csv").write_text("x_index,y_index,relation\n0.0,1.0,treats\n")
    assert read_edge_table(tmp_path).num_rows == 1
    (tmp_path / "nodes.csv").write_text(
        "node_index,node_id,node_type,node_name\n0,a,drug,A\n0.0,b,disease,B\n"
    )
    with pytest.raises(InputError, match="node_index 0 has more than one row"):
        read_edge_table(tmp_path)
    (tmp_path / "nodes.csv").write_text(
        "node_index,node_id,node_type,node_name\n0,a,drug,A\n1,a,drug,B\n"
    )
    with pytest.raises(InputError, match="drug a is 'A' in one row and 'B' in another"):
        read_edge_table(tmp_path)
