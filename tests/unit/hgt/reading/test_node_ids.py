"""One node has one id, however its number is spelled; what is text stays text."""

import decimal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from hgt.errors import InputError
from hgt.reading.edge_table import read_edge_table


def ids(tmp_path, left, right, kind="csv"):
    """The ids of type gene, of rows gene - gene. left, right: a value per row"""
    columns = {"x_type": "gene", "x_id": left, "relation": "r", "y_type": "gene", "y_id": right}
    path = tmp_path / f"kg.{kind}"
    if kind == "csv":
        pd.DataFrame(columns).to_csv(path, index=False)
    else:
        text = {c: pa.array([columns[c]] * len(left)) for c in ("x_type", "relation", "y_type")}
        pyarrow.parquet.write_table(pa.table(text | {"x_id": left, "y_id": right}), path)
    table = read_edge_table(path)
    return [
        (table.node_id[h], table.node_id[t]) for h, t in zip(table.head, table.tail, strict=True)
    ]


def test_the_mirror_of_a_float_id_is_found(tmp_path):
    rows = (
        "gene,1.0,targets,drug,2\ndrug,2.0,targets,gene,1\n"
        "gene,1.0,targets,drug,3\ndrug,3.0,targets,gene,1\n"
    )
    (tmp_path / "kg.csv").write_text("x_type,x_id,relation,y_type,y_id\n" + rows)
    table = read_edge_table(tmp_path / "kg.csv")
    nodes = list(zip((table.node_types[t] for t in table.node_type), table.node_id, strict=True))
    assert [(nodes[h], nodes[t]) for h, t in zip(table.head, table.tail, strict=True)] == [
        (("gene", "1"), ("drug", "2")),
        (("drug", "2"), ("gene", "1")),
        (("gene", "1"), ("drug", "3")),
        (("drug", "3"), ("gene", "1")),
    ]
    assert len(nodes) == 3


@pytest.mark.parametrize(
    ("spelled", "id_"),
    [
        ("1.0", "1"),
        ("1.00", "1"),
        ("1.", "1"),
        ("-1.0", "-1"),
        ("-0.0", "0"),
        ("0.0", "0"),
        ("+3", "3"),
        ("1e+05", "100000"),
        ("1.2345678E7", "12345678"),
        ("1.5", "1.5"),
        ("9007199254740993.0", "9007199254740993"),
        ("12", "12"),
        ("123456789012345678901234567890.0", "123456789012345678901234567890"),
    ],
)
def test_whole_numbers_are_integers_where_all_ids_are_numbers(tmp_path, spelled, id_):
    assert ids(tmp_path, [spelled, "7.0"], ["4", "5"]) == [(id_, "4"), ("7", "5")]


@pytest.mark.parametrize(
    "text",
    [
        "A1",
        "007",
        "1_000",
        "inf",
        "nan",
        "12e4",
        "1e3",
        "00",
        "0x10",
        "1.2.3",
        "1,5",
        "007.0",
        "-",
        "1e999",
    ],
)
def test_with_an_id_that_is_text_all_of_the_type_is(tmp_path, text):
    assert ids(tmp_path, [text, "8.0"], ["4", "5"]) == [(text, "4"), ("8.0", "5")]


@pytest.mark.parametrize(
    ("spelled", "shown"),
    [
        (["1", "1.0", "A"], "'1' and '1.0'"),
        (["7", "007", "8"], "'7' and '007'"),
        (["1.0", "1.00", "A"], "'1.0' and '1.00'"),
    ],
)
def test_ids_of_text_that_differ_only_in_spelling_are_refused(tmp_path, spelled, shown):
    with pytest.raises(
        InputError, match="ids of type gene differ only in how a number is spelled"
    ) as caught:
        ids(tmp_path, spelled, ["B", "C", "D"])
    assert shown in str(caught.value)


def test_types_are_judged_by_themselves(tmp_path):
    (tmp_path / "kg.csv").write_text(
        "x_type,x_id,relation,y_type,y_id\ngene,1.0,r,pathway,A\ngene,1,r,pathway,1.0\n"
    )
    table = read_edge_table(tmp_path / "kg.csv")
    assert sorted(table.node_id) == ["1", "1.0", "A"]


@pytest.mark.parametrize(
    "kind",
    [
        pa.float64(),
        pa.float32(),
        pa.decimal128(10, 2),
        pa.decimal128(10, 0),
        pa.int64(),
        pa.string(),
    ],
)
def test_parquet_numbers_of_any_kind_are_their_integers(tmp_path, kind):
    values = [decimal.Decimal(n) if pa.types.is_decimal(kind) else n for n in (1, 20, 300)]
    left = pa.array([str(n) for n in values]) if kind == pa.string() else pa.array(values, kind)
    assert ids(tmp_path, left, pa.array(["1", "20", "4"]), "parquet") == [
        ("1", "1"),
        ("20", "20"),
        ("300", "4"),
    ]


def test_large_integers_and_decimals_keep_every_digit(tmp_path):
    large = [2**62 + 1, 2**53 + 1]
    assert ids(tmp_path, pa.array(large), pa.array(["1", "2"]), "parquet") == [
        (str(large[0]), "1"),
        (str(large[1]), "2"),
    ]
    decimals = pa.array([decimal.Decimal(n) for n in large], pa.decimal128(30, 3))
    assert ids(tmp_path, decimals, pa.array(["1", "2"]), "parquet") == [
        (str(large[0]), "1"),
        (str(large[1]), "2"),
    ]


@pytest.mark.parametrize(("kind", "value"), [(pa.float64(), 2.0**53), (pa.float32(), 2.0**24)])
def test_floats_that_have_lost_digits_are_refused(tmp_path, kind, value):
    with pytest.raises(
        InputError, match=r"column x_id holds floats up to .* floats can round whole numbers"
    ):
        ids(tmp_path, pa.array([1.0, value], kind), pa.array(["1", "2"]), "parquet")
    assert ids(tmp_path, pa.array([1.0, value - 1], kind), pa.array(["1", "2"]), "parquet")[1] == (
        str(int(value) - 1),
        "2",
    )


def test_numbers_of_any_length_and_exponent(tmp_path):
    digits = "1" * 5_000
    assert ids(tmp_path, [f"{digits}.0"], ["1.0E+005"]) == [(digits, "100000")]
