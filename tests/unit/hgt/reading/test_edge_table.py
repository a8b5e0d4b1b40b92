"""Every form of the same rows reads the same; every fault of a file is one InputError that says
what and where.
"""

import csv
import gzip
import io
import json
import random

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hgt.config import GraphConfig
from hgt.errors import InputError
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.reading import csv_text as module
from hgt.reading.columns import EDGES
from hgt.reading.edge_table import read_beginning, read_edge_table

REQUIRED = EDGES.required
HEADER = (
    "relation,display_relation,x_index,x_id,x_type,x_name,x_source,"
    "y_index,y_id,y_type,y_name,y_source"
)
ROWS = pd.DataFrame(
    [
        ("targets", "t", 0, "1", "drug", "aspirin", "DB", 9, "1", "gene/protein", "PTGS1", "NCBI"),
        (
            "targets",
            "t",
            0,
            "1",
            "drug",
            "aspirin",
            "DB",
            8,
            "2",
            "gene/protein",
            "PTGS2, the second",
            "NCBI",
        ),
        ("treats", "t", 1, "2", "drug", "ibuprofén", "DB", 5, "1", "disease", 'the "flu"', "MONDO"),
        ("treats", "t", 0, "1", "drug", "aspirin", "DB", 6, "33", "disease", "pain", "MONDO"),
        (
            "ppi",
            "p",
            9,
            "1",
            "gene/protein",
            "PTGS1",
            "NCBI",
            8,
            "2",
            "gene/protein",
            "PTGS2, the second",
            "NCBI",
        ),
    ],
    columns=HEADER.split(","),
)
MINIMAL = ",".join(REQUIRED) + "\n"


def write(path, rows):
    if path.suffix == ".parquet":
        rows.to_parquet(path, index=False)
    else:
        rows.to_csv(path, index=False)
    return path


def graph_of(path):
    return KnowledgeGraph.from_edge_table(read_edge_table(path), GraphConfig())


def many_rows(num):
    return (MINIMAL + "".join(f"drug,{i},treats,disease,{i % 97}\n" for i in range(num))).encode()


def refusal(path, data=None):
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_edge_table(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_csv_gzip_and_parquet_give_the_same_table_and_graph(tmp_path):
    tables = [
        read_edge_table(write(tmp_path / name, ROWS))
        for name in ("kg.csv", "kg.csv.gz", "kg.parquet")
    ]
    for table in tables:
        assert table.node_types == ["drug", "gene/protein", "disease"]
        assert table.relations == ["targets", "treats", "ppi"]
        nodes = list(zip(table.node_type.tolist(), table.node_id, table.node_name, strict=True))
        told = [
            (nodes[h], table.relations[r], nodes[t])
            for h, r, t in zip(table.head, table.relation, table.tail, strict=True)
        ]
        place = {t: i for i, t in enumerate(table.node_types)}
        assert told == [
            ((place[x], a, m), r, (place[y], b, n))
            for r, a, x, m, b, y, n in ROWS.iloc[:, [0, 3, 4, 5, 8, 9, 10]].values
        ]
    assert len({KnowledgeGraph.from_edge_table(t, GraphConfig()).hash for t in tables}) == 1


def test_overlapping_ids_of_different_types_stay_separate_nodes(tmp_path):
    graph = graph_of(write(tmp_path / "kg.csv", ROWS))
    assert {t: ids.tolist() for t, ids in graph.node_ids.items()} == {
        "disease": ["1", "33"],
        "drug": ["1", "2"],
        "gene/protein": ["1", "2"],
    }
    assert graph.node_names["disease"].tolist() == ['the "flu"', "pain"]


def test_names_and_other_columns_are_optional_and_in_any_order(tmp_path):
    whole = graph_of(write(tmp_path / "whole.csv", ROWS))
    bare = graph_of(
        write(tmp_path / "bare.csv", ROWS[["y_id", "y_type", "x_id", "relation", "x_type"]])
    )
    assert bare.hash == whole.hash
    assert bare.node_names["drug"].tolist() == ["1", "2"]


@pytest.mark.parametrize("missing", ["", "  ", None])
def test_the_first_name_that_is_one_counts(tmp_path, missing):
    rows = ROWS.copy()
    rows.loc[0, "x_name"] = missing
    for name in ("kg.csv", "kg.parquet"):
        assert graph_of(write(tmp_path / name, rows)).node_names["drug"].tolist() == [
            "aspirin",
            "ibuprofén",
        ]


def test_a_node_without_a_name_is_named_by_its_id(tmp_path):
    rows = ROWS.copy()
    rows.loc[rows["x_id"] == "1", "x_name"] = None
    rows.loc[0, "y_name"] = " "
    for name in ("kg.csv", "kg.parquet"):
        table = read_edge_table(write(tmp_path / name, rows))
        names = dict(
            zip(zip(table.node_type, table.node_id, strict=True), table.node_name, strict=True)
        )
        assert names[(0, "1")] == "1"
        assert names[(0, "2")] == "ibuprofén"


@pytest.mark.parametrize("seed", range(3))
def test_row_order_does_not_change_the_graph(tmp_path, seed):
    shuffled = ROWS.sample(frac=1, random_state=seed)
    assert shuffled.index.tolist() != ROWS.index.tolist()
    assert (
        graph_of(write(tmp_path / "b.csv", shuffled)).hash
        == graph_of(write(tmp_path / "a.csv", ROWS)).hash
    )


def test_one_other_row_changes_the_hash(tmp_path):
    other = ROWS.copy()
    other.loc[3, "y_id"] = "34"
    assert (
        graph_of(write(tmp_path / "b.csv", other)).hash
        != graph_of(write(tmp_path / "a.csv", ROWS)).hash
    )


@pytest.mark.parametrize(
    "kind", ["int64", "uint8", "float64", "float32", "Int64", "category", "large", "dictionary"]
)
def test_parquet_ids_of_any_kind_equal_the_csv(tmp_path, kind):
    rows = ROWS.copy()
    for column in ("x_id", "y_id"):
        if kind == "large":
            rows[column] = pd.array(rows[column], dtype=pd.ArrowDtype(pa.large_string()))
        elif kind == "dictionary":
            rows[column] = pd.array(
                rows[column], dtype=pd.ArrowDtype(pa.dictionary(pa.int8(), pa.string()))
            )
        else:
            rows[column] = rows[column].astype(kind if kind == "category" else "int64").astype(kind)
    assert (
        graph_of(write(tmp_path / "kg.parquet", rows)).hash
        == graph_of(write(tmp_path / "kg.csv", ROWS)).hash
    )


def test_half_precision_ids_are_read(tmp_path):
    columns = {c: pa.array(ROWS[c]) for c in REQUIRED} | {
        "x_id": pa.array(ROWS["x_id"].astype(float)).cast(pa.float16())
    }
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "kg.parquet")
    assert graph_of(tmp_path / "kg.parquet").hash == graph_of(write(tmp_path / "kg.csv", ROWS)).hash


@pytest.mark.parametrize(
    "values",
    [[1.0, None, 3.0, 4.0, float("nan")], [1, None, 3, 4, None], ["1", None, "3", "4", " "]],
)
def test_parquet_nulls_are_refused_with_their_rows(tmp_path, values):
    columns = {c: pa.array(ROWS[c]) for c in REQUIRED} | {"y_id": pa.array(values)}
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "kg.parquet")
    message = refusal(tmp_path / "kg.parquet")
    assert 'column y_id is empty (null or ""' in message
    assert "in 2 row(s): 2, 5 (" in message


def test_a_parquet_column_of_nothing_but_nulls_is_refused(tmp_path):
    columns = {c: pa.array(ROWS[c]) for c in REQUIRED} | {"relation": pa.nulls(5)}
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "kg.parquet")
    assert 'column relation is empty (null or "") in 5 row(s): 1, 2, 3, 4, 5 (' in refusal(
        tmp_path / "kg.parquet"
    )


def test_reading_in_many_blocks_equals_reading_in_one(tmp_path, monkeypatch):
    (tmp_path / "kg.csv").write_bytes(many_rows(3000))
    whole = read_edge_table(tmp_path / "kg.csv")
    monkeypatch.setattr(module, "_BLOCK_BYTES", 1000)
    blocks = read_edge_table(tmp_path / "kg.csv")
    assert whole.num_rows == 3000
    for name in vars(whole):
        np.testing.assert_array_equal(getattr(blocks, name), getattr(whole, name))


def test_row_numbers_hold_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_BYTES", 1000)
    data = (
        many_rows(3000)
        + b"drug,1,treats,,1\n"
        + many_rows(2).split(b"\n", 1)[1]
        + b"drug,1,treats,,1\n"
    )
    assert 'column y_type is empty ("") in 2 row(s): 3001, 3004 (' in refusal(
        tmp_path / "kg.csv", data
    )
    assert "row 3001 has 2 columns, the header 5" in refusal(
        tmp_path / "kg.csv", many_rows(3000) + b"drug,1\n"
    )


@pytest.mark.parametrize("prefix", [b"\xef\xbb\xbf", b"\n\n", b"\r\n"])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_byte_order_marks_and_foreign_line_ends_are_no_fault(tmp_path, prefix, newline):
    (tmp_path / "kg.csv").write_bytes(prefix + many_rows(3).replace(b"\n", newline))
    assert read_edge_table(tmp_path / "kg.csv").num_rows == 3


def test_gzip_is_known_by_its_content_not_its_name(tmp_path):
    (tmp_path / "kg.csv").write_bytes(gzip.compress(many_rows(3)))
    (tmp_path / "kg.csv.gz").write_bytes(many_rows(3))
    (tmp_path / "two.csv.gz").write_bytes(
        gzip.compress(many_rows(3)) + gzip.compress(b"drug,x,treats,disease,y\n")
    )
    assert [
        read_edge_table(tmp_path / n).num_rows for n in ("kg.csv", "kg.csv.gz", "two.csv.gz")
    ] == [3, 3, 4]


def test_values_are_trimmed_and_quoted_newlines_belong_to_them(tmp_path):
    (tmp_path / "kg.csv").write_text(
        MINIMAL + 'drug, 1 ,treats,disease,1\n" drug",1,treats,disease,"2\n3"\n'
    )
    table = read_edge_table(tmp_path / "kg.csv")
    assert (table.node_types, sorted(table.node_id)) == (["drug", "disease"], ["1", "1", "2\n3"])


def test_missing_file_and_folder(tmp_path):
    assert "no such file" in refusal(tmp_path / "kg.csv")
    assert "is a folder" in refusal(tmp_path)
    assert "cannot be read" in refusal(tmp_path / ("x" * 300))


@pytest.mark.parametrize(
    "empty", [b"", b"\n \n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n", gzip.compress(b"", mtime=0)]
)
def test_empty_file(tmp_path, empty):
    assert "is empty" in refusal(tmp_path / "kg.csv", empty)


def test_header_without_rows_is_refused_by_the_first_look(tmp_path):
    header = MINIMAL.encode()
    for data in (
        header,
        header.rstrip(),
        header + b"\r\n\n",
        b"\n" + header,
        b"\xef\xbb\xbf" + header,
        gzip.compress(header),
    ):
        assert "header line but no rows" in refusal(tmp_path / "kg.csv", data)
        with pytest.raises(InputError, match="header line but no rows"):
            read_beginning(tmp_path / "kg.csv")
    write(tmp_path / "kg.parquet", ROWS.iloc[:0])
    assert "header line but no rows" in refusal(tmp_path / "kg.parquet")
    with pytest.raises(InputError, match="header line but no rows"):
        read_beginning(tmp_path / "kg.parquet")
    read_beginning(write(tmp_path / "kg.csv", ROWS.iloc[:1]))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(range(256)), "binary data"),
        (
            b"Lorem ipsum dolor sit amet\nconsectetur adipisici elit\n",
            "its first line is 'Lorem ipsum",
        ),
        ("x_type,x_id\n".encode("utf-16"), "relation, y_type, y_id missing"),
        (b"x_type,\xe9\n", "header line is not UTF-8 (byte 7)"),
        (b'{"x_type": 1}', "not a table"),
    ],
)
def test_no_table(tmp_path, data, what):
    assert what in refusal(tmp_path / "kg.csv", data)


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_the_header_tells_the_delimiter(tmp_path, delimiter):
    (tmp_path / "kg.csv").write_bytes(many_rows(3).replace(b",", delimiter.encode()))
    assert read_edge_table(tmp_path / "kg.csv").num_rows == 3
    cut = many_rows(3).replace(b",", delimiter.encode()) + f"drug{delimiter}1".encode()
    assert "row 4 has 2 columns, the header 5" in refusal(tmp_path / "kg.csv", cut)


def test_columns_separated_by_spaces_are_refused(tmp_path):
    assert "separated by spaces" in refusal(tmp_path / "kg.csv", many_rows(3).replace(b",", b" "))


@pytest.mark.parametrize("name", ["kg.csv", "kg.csv.gz", "kg.parquet"])
@pytest.mark.parametrize("column", REQUIRED)
def test_a_missing_column_is_named_with_those_that_are_there(tmp_path, name, column):
    message = refusal(write(tmp_path / name, ROWS.drop(columns=column)))
    assert f"required column(s) {column} missing" in message
    assert "display_relation" in message
    with pytest.raises(InputError, match=column):
        read_beginning(tmp_path / name)


def test_a_repeated_column_is_refused(tmp_path):
    assert "x_id appear more than once" in refusal(
        tmp_path / "kg.csv", b"x_id," + MINIMAL.encode() + b"1,drug,1,treats,disease,1\n"
    )
    again = MINIMAL.replace("x_id,", "x_id, X_ID ,").encode() + b"drug,1,2,treats,disease,1\n"
    assert "x_id appear more than once ('x_id', ' X_ID ')" in refusal(tmp_path / "kg.csv", again)
    arrays = [pa.array(["a"])] * 6
    pyarrow.parquet.write_table(
        pa.Table.from_arrays(arrays, [*REQUIRED, "x_id"]), tmp_path / "kg.parquet"
    )
    assert "x_id appear more than once" in refusal(tmp_path / "kg.parquet")


@pytest.mark.parametrize("value", ["", "  ", "\u00a0"])
@pytest.mark.parametrize("column", REQUIRED)
def test_empty_cells_are_refused_with_their_rows_and_quoted(tmp_path, column, value):
    rows = ROWS.copy()
    rows.loc[[1, 3], column] = value
    assert f"column {column} is empty ({json.dumps(value)}) in 2 row(s): 2, 4 (" in refusal(
        write(tmp_path / "kg.csv", rows)
    )


def test_words_for_missing_are_values(tmp_path):
    header = "x_type,x_id,relation,y_type,y_id,x_name,y_name\n"
    rows = (
        "gene,NA,interacts,gene,2,sodium"
        " channel,TP53\ngene,nan,interacts,gene,3,nanos,BRCA1\ndrug,7,none,disease,1,aspirin,none\n"
    )
    (tmp_path / "kg.csv").write_text(header + rows + "NULL,<NA>,None,null,N/A,NaN,null\n")
    table = read_edge_table(tmp_path / "kg.csv")
    names = dict(
        zip(
            zip((table.node_types[t] for t in table.node_type), table.node_id, strict=True),
            table.node_name,
            strict=True,
        )
    )
    assert names == {
        ("gene", "NA"): "sodium channel",
        ("gene", "nan"): "nanos",
        ("gene", "2"): "TP53",
        ("gene", "3"): "BRCA1",
        ("drug", "7"): "aspirin",
        ("disease", "1"): "none",
        ("NULL", "<NA>"): "NaN",
        ("null", "N/A"): "null",
    }
    assert table.relations == ["interacts", "none", "None"]
    values = pa.array(["NA", "nan", "None", "1", "2"])
    pyarrow.parquet.write_table(
        pa.table({c: pa.array(ROWS[c]) for c in REQUIRED} | {"y_id": values}),
        tmp_path / "kg.parquet",
    )
    assert {"NA", "nan", "None"} <= set(read_edge_table(tmp_path / "kg.parquet").node_id)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_undecodable_bytes_deep_in_the_file_are_found_by_line(tmp_path, pack):
    data = many_rows(20_000) + "drug,é,treats,disease,1\n".encode("latin-1") + many_rows(5)
    assert "line 20002 holds bytes that are not UTF-8 (b'\\xe9')" in refusal(
        tmp_path / "kg.csv", pack(data)
    )


@pytest.mark.parametrize(
    ("row", "columns"),
    [(b"drug,1\n", 2), (b"drug,1,treats,disease,1,extra\n", 6), (b"  \n", 1), (b"drug,\xe9\n", 2)],
)
def test_ragged_rows_are_found_by_row(tmp_path, row, columns):
    assert f"row 8 has {columns} columns, the header 5" in refusal(
        tmp_path / "kg.csv", many_rows(7) + row + many_rows(1)
    )


def test_damaged_gzip(tmp_path):
    random.seed(0)
    rows = (
        MINIMAL + "".join(f"drug,{random.random()},treats,disease,{i}\n" for i in range(8000))
    ).encode()
    packed = gzip.compress(rows)
    flipped = bytearray(packed)
    flipped[len(packed) // 2] ^= 0xFF
    undecodable = gzip.compress(rows + b"drug,\xe9,treats,disease,1\n" + rows)
    for damaged in (
        packed[: len(packed) // 2],
        packed[:-4],
        packed[:30],
        packed[:2],
        bytes(flipped),
        packed + b"tail",
        undecodable[:-9],
    ):
        assert "the gzip data is damaged" in refusal(tmp_path / "kg.csv.gz", damaged)


def test_damaged_parquet(tmp_path):
    data = write(tmp_path / "kg.parquet", ROWS).read_bytes()
    for damaged in (data[:4], data[:200], data[:-20], data[:-8] + b"\xff\xff\xff\x7fPAR1"):
        assert "Parquet data is damaged" in refusal(tmp_path / "kg.parquet", damaged)


@pytest.mark.parametrize(
    "ids", [pa.array([[1], [2]]), pa.array([{"a": 1}, {"a": 2}]), pa.array([b"1", b"\xff"])]
)
def test_parquet_columns_that_are_no_ids(tmp_path, ids):
    columns = {c: pa.array(["a", "b"]) for c in REQUIRED} | {"x_id": ids}
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "kg.parquet")
    assert "cannot be read as a table of ids" in refusal(tmp_path / "kg.parquet")


def test_a_parquet_string_column_with_undecodable_bytes(tmp_path):
    broken = pa.StringArray.from_buffers(
        2, pa.py_buffer(np.array([0, 1, 2], np.int32)), pa.py_buffer(b"1\xff")
    )
    columns = {c: pa.array(["a", "b"]) for c in REQUIRED} | {"x_id": broken}
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "kg.parquet")
    assert "cannot be read as a table of ids" in refusal(tmp_path / "kg.parquet")


FUZZ = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)


def works_or_refuses(path, data):
    """What is read must be whole; what is not read must be an InputError. Anything else fails the
    test.
    """
    path.write_bytes(data)
    for reader in (read_beginning, read_edge_table):
        try:
            table = reader(path)
        except InputError:
            return None
    assert table.num_rows > 0
    assert (
        max(table.head.max(), table.tail.max())
        < len(table.node_id)
        == len(table.node_type)
        == len(table.node_name)
    )
    assert all(v.strip() for v in [*table.node_types, *table.relations, *table.node_id])
    return table


@FUZZ
@given(
    prefix=st.sampled_from(
        [b"", MINIMAL.encode(), b"PAR1", b"\x1f\x8b\x08", b"\xef\xbb\xbf", many_rows(2)]
    ),
    data=st.binary(max_size=60),
)
@example(prefix=b"\xef\xbb\xbf", data=b"")
@example(prefix=b"\xef\xbb\xbf", data=b"\n\n")
def test_any_bytes_are_read_or_refused(tmp_path, prefix, data):
    works_or_refuses(tmp_path / "kg.csv", prefix + data)


@FUZZ
@given(
    data=st.lists(
        st.sampled_from(
            [
                *'",;\n\r \t\x00\x1f',
                "drug",
                "1",
                "x_type",
                "é",
                "NaN",
                *MINIMAL.strip().split(","),
                MINIMAL,
            ]
        ),
        max_size=40,
    )
)
def test_any_csv_like_text_is_read_or_refused(tmp_path, data):
    works_or_refuses(tmp_path / "kg.csv", "".join(data).encode())


@FUZZ
@given(
    rows=st.lists(
        st.tuples(*[st.text('ab1 \n",é', min_size=1, max_size=4).filter(str.strip)] * 5),
        min_size=1,
        max_size=8,
    )
)
def test_any_rows_that_a_csv_writer_wrote_are_read_back(tmp_path, rows):
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([REQUIRED, *rows])
    table = works_or_refuses(tmp_path / "kg.csv", text.getvalue().encode())
    told = [
        (
            table.node_types[table.node_type[h]],
            table.node_id[h],
            table.relations[r],
            table.node_types[table.node_type[t]],
            table.node_id[t],
        )
        for h, r, t in zip(table.head, table.relation, table.tail, strict=True)
    ]
    assert told == [tuple(v.strip() for v in row) for row in rows]


@FUZZ
@given(data=st.data())
def test_a_damaged_byte_never_raises_anything_else(tmp_path, data):
    for whole in (
        write(tmp_path / "whole.csv.gz", ROWS).read_bytes(),
        write(tmp_path / "whole.csv", ROWS).read_bytes(),
    ):
        damaged = bytearray(whole)
        damaged[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
        works_or_refuses(tmp_path / "kg.csv", bytes(damaged))


@pytest.mark.parametrize("column", ["x_id", "y_type", "relation"])
def test_a_nul_at_the_end_is_refused(tmp_path, column):
    """NumPy's arrays of text drop it: two ids would become one."""
    rows = pd.DataFrame(
        {
            "x_type": ["drug"] * 2,
            "x_id": ["1", "2"],
            "relation": ["of"] * 2,
            "y_type": ["gene"] * 2,
            "y_id": ["3", "4"],
        }
    )
    rows.loc[1, column] += "\0"
    rows.to_parquet(tmp_path / "kg.parquet")
    with pytest.raises(
        InputError, match=rf"\\x00' \(.*{column}.*\) ends with a NUL character. Remove it."
    ):
        read_edge_table(tmp_path / "kg.parquet")


@pytest.mark.parametrize("again", [MINIMAL, MINIMAL.upper(), "\ufeff" + MINIMAL])
def test_a_header_in_the_middle_is_refused(tmp_path, again):
    (tmp_path / "kg.csv").write_text(f"{MINIMAL}drug,1,of,gene,2\n{again}drug,2,of,gene,3\n")
    with pytest.raises(
        InputError, match=r"row 2 .* is the header once more: two files were joined"
    ):
        read_edge_table(tmp_path / "kg.csv")


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("\ufeffdrug,1,of,gene,2", "begins with a byte order mark"),
        ('drug, "1",of,gene,2', "has a blank before its quote"),
    ],
)
def test_values_that_look_like_others_are_refused(tmp_path, row, why):
    (tmp_path / "kg.csv").write_text(f"{MINIMAL}drug,1,of,gene,2\n{row}\n")
    with pytest.raises(InputError, match=why):
        read_edge_table(tmp_path / "kg.csv")


def test_a_line_break_at_the_end_of_the_last_value(tmp_path):
    (tmp_path / "kg.csv").write_text(f'{MINIMAL}drug,1,of,gene,"2\n"')
    assert read_edge_table(tmp_path / "kg.csv").num_rows == 1


def test_a_long_first_line_is_read_or_refused(tmp_path):
    wide = ",".join(f"c{i}" for i in range(30_000))
    (tmp_path / "kg.csv").write_text(f"{MINIMAL.strip()},{wide}\ndrug,1,of,gene,2{',' * 30_000}\n")
    assert read_edge_table(tmp_path / "kg.csv").num_rows == 1
    (tmp_path / "kg.csv").write_text("ACGT" * 50_000)
    with pytest.raises(InputError, match="is not a table"):
        read_edge_table(tmp_path / "kg.csv")


def test_blanks_before_a_headers_quotes_do_not_count(tmp_path):
    header = ", ".join(f'"{name}"' for name in REQUIRED)
    (tmp_path / "kg.csv").write_text(f" {header}\ndrug,1,of,gene,2\n")
    assert read_edge_table(tmp_path / "kg.csv").num_rows == 1
