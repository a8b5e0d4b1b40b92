"""The files of an embedding table: read by other tools in one line, read back unchanged, and
refused with one sentence.
"""

import dataclasses

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest
import safetensors.torch
import torch

from hgt.embeddings.table import Embeddings
from hgt.errors import InputError

EDGE_TYPES = (("drug", "treats", "disease"), ("disease", "like", "disease"))


def table(num=7, dim=6, **nodes):
    """Ids and names that only survive when they are taken as strings."""
    generator = torch.Generator().manual_seed(0)
    frame = pd.DataFrame({
        "node_type": ["drug"] * (num - 3) + ["disease"] * 3,
        "node_id": [f"{i:03}" for i in range(num)],
        "node_name": ["007", "null", 'a "quoted", name', "two\nlines", "é", "", "1e5"][:num],
    } | nodes).astype(str)  # fmt: skip
    vectors = torch.randn(num, dim, generator=generator) * 10.0 ** (torch.arange(dim) % 6 - 3)
    origin = {"graph_hash": "abc", "decoder": "complex", "parameters": {"seed": 3}}
    return Embeddings(frame, vectors, EDGE_TYPES, torch.randn(2, dim, generator=generator), origin)


@pytest.fixture
def saved(tmp_path):
    embeddings = table()
    embeddings.save(tmp_path / "run")
    embeddings.save_csv(tmp_path / "out.csv")
    return embeddings, tmp_path


def same_rows(nodes, embeddings):
    assert [list(row) for row in nodes] == embeddings.nodes.to_numpy().tolist()


def test_pandas_reads_it_in_one_line(saved):
    embeddings, folder = saved
    df = pd.read_parquet(folder / "run" / "embeddings.parquet")
    same_rows(df[["node_type", "node_id", "node_name"]].to_numpy(), embeddings)
    np.testing.assert_array_equal(np.stack(df["embedding"]), embeddings.vectors.numpy())
    assert np.stack(df["embedding"]).dtype == np.float32


def test_polars_reads_it_in_one_line(saved):
    embeddings, folder = saved
    df = pl.read_parquet(folder / "run" / "embeddings.parquet")
    assert df.schema["embedding"] == pl.Array(pl.Float32, 6)
    np.testing.assert_array_equal(df["embedding"].to_numpy(), embeddings.vectors.numpy())
    same_rows(df.select("node_type", "node_id", "node_name").rows(), embeddings)


def test_duckdb_reads_it_in_one_line(saved):
    embeddings, folder = saved
    rows = duckdb.sql(
        "select node_type, node_id, node_name, embedding from"
        f" '{folder / 'run' / 'embeddings.parquet'}'"
    ).fetchall()
    same_rows([row[:3] for row in rows], embeddings)
    np.testing.assert_array_equal(
        np.array([row[3] for row in rows], dtype=np.float32), embeddings.vectors.numpy()
    )


def test_lists_have_a_fixed_size(saved):
    schema = pyarrow.parquet.read_schema(saved[1] / "run" / "embeddings.parquet")
    assert schema.field("embedding").type == pa.list_(pa.float32(), 6)


def test_safetensors_and_nodes_agree_with_the_table(saved):
    embeddings, folder = saved
    tensors = safetensors.torch.load_file(folder / "run" / "embeddings.safetensors")
    assert torch.equal(tensors["embeddings"], embeddings.vectors)
    assert torch.equal(tensors["relations"], embeddings.relations)
    same_rows(pd.read_parquet(folder / "run" / "nodes.parquet").to_numpy(), embeddings)


def test_parquet_round_trip(saved):
    embeddings, folder = saved
    back = Embeddings.load(folder / "run" / "embeddings.parquet")
    pd.testing.assert_frame_equal(back.nodes, embeddings.nodes)
    assert torch.equal(back.vectors, embeddings.vectors)
    assert back.edge_types == EDGE_TYPES
    assert torch.equal(back.relations, embeddings.relations)
    assert back.origin == embeddings.origin


def test_csv_round_trip(saved):
    embeddings, folder = saved
    back = Embeddings.load(folder / "out.csv")
    pd.testing.assert_frame_equal(back.nodes, embeddings.nodes)
    assert torch.equal(back.vectors, embeddings.vectors)
    assert (back.edge_types, back.origin) == (embeddings.edge_types, embeddings.origin)
    assert torch.equal(back.relations, embeddings.relations)
    (folder / "out.relations.parquet").unlink()
    alone = Embeddings.load(folder / "out.csv")
    assert (alone.edge_types, alone.relations.shape, alone.origin) == ((), (0, 6), {})
    df = pd.read_csv(folder / "out.csv")
    assert list(df.columns) == [
        "node_type",
        "node_id",
        "node_name",
        *(f"dim_{i}" for i in range(6)),
    ]


def test_names_that_are_numbers_and_names_with_line_breaks_survive_a_long_csv(tmp_path):
    for name in ("0{}", "two\nlines {}"):
        num = 4_000
        embeddings = table(
            num,
            30,
            node_name=[name.format(i) for i in range(num)],
            node_id=[f"{i:05}" for i in range(num)],
        )
        embeddings.save(tmp_path)
        embeddings.save_csv(tmp_path / "out.csv", overwrite=True)
        assert (tmp_path / "out.csv").stat().st_size > 1 << 20, "more than one block of the reader"
        (tmp_path / "relations.parquet").unlink()
        assert Embeddings.load(tmp_path / "out.csv").nodes.equals(embeddings.nodes)


def test_nan_survives_the_csv_as_nan(tmp_path):
    embeddings = table()
    embeddings.vectors[2, 3] = float("nan")
    embeddings.vectors[4, 1] = float("inf")
    embeddings.save_csv(tmp_path / "out.csv")
    torch.testing.assert_close(
        Embeddings.load(tmp_path / "out.csv").vectors,
        embeddings.vectors,
        equal_nan=True,
        atol=0,
        rtol=0,
    )


def test_a_table_alone_still_knows_its_origin(saved):
    """Moved without its relations it must not be judged on facts that it was trained on."""
    embeddings, folder = saved
    (folder / "run" / "relations.parquet").unlink()
    back = Embeddings.load(folder / "run" / "embeddings.parquet")
    assert (back.origin, back.edge_types) == (embeddings.origin, ())


def refusal(path):
    """The one sentence (and remedy) that a bad file is refused with."""
    with pytest.raises(InputError) as caught:
        Embeddings.load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path.parent) in message
    return message


def test_refuses_a_missing_file(tmp_path):
    assert "no such file" in refusal(tmp_path / "nothing.parquet")
    assert "is a folder. Give a table" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["x.parquet", "x.csv"])
@pytest.mark.parametrize(
    "content", [b"", np.random.default_rng(0).bytes(5_000), b"PAR1" + bytes(50) + b"PAR1"]
)
def test_refuses_random_bytes(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert "no table of embeddings" in refusal(tmp_path / name)


def test_refuses_a_table_cut_short(saved):
    path = saved[1] / "run" / "embeddings.parquet"
    path.write_bytes(path.read_bytes()[:-40])
    assert "no table of embeddings" in refusal(path)


@pytest.mark.parametrize("name", ["run/embeddings.parquet", "out.csv"])
def test_names_may_be_left_out(saved, name):
    embeddings, folder = saved
    path = folder / name
    if path.suffix == ".csv":
        pd.read_csv(path, dtype=str).drop(columns="node_name").to_csv(path, index=False)
    else:
        pyarrow.parquet.write_table(
            pyarrow.parquet.read_table(path).drop_columns(["node_name"]), path
        )
    back = Embeddings.load(path)
    assert list(back.nodes) == list(embeddings.nodes)
    assert (
        back.nodes["node_name"].tolist()
        == back.nodes["node_id"].tolist()
        == embeddings.nodes["node_id"].tolist()
    )
    assert torch.equal(back.vectors, embeddings.vectors)


@pytest.mark.parametrize("missing", ["node_type", "node_id", "embedding"])
def test_refuses_parquet_without_a_column(saved, missing):
    path = saved[1] / "run" / "embeddings.parquet"
    whole = pyarrow.parquet.read_table(path)
    pyarrow.parquet.write_table(whole.drop_columns([missing]), path)
    assert missing in refusal(path)


@pytest.mark.parametrize("missing", ["node_type", "node_id", "dim_"])
def test_refuses_csv_without_a_column(saved, missing):
    path = saved[1] / "out.csv"
    df = pd.read_csv(path)
    df.drop(columns=[c for c in df if c.startswith(missing)]).to_csv(path, index=False)
    assert "no table of embeddings" in refusal(path)


def test_refuses_csv_with_words_for_numbers(saved):
    path = saved[1] / "out.csv"
    pd.read_csv(path).assign(dim_2="word").to_csv(path, index=False)
    assert "no table of embeddings" in refusal(path)


@pytest.mark.parametrize("column", [
    pa.array([[1.0], [1.0, 2, 3]] + [[1.0, 2]] * 5),
    pa.array([None, [1.0, 2, 3, 4]] + [[1.0, 2]] * 5),
    pa.array([1.0] * 7),
    pa.array(["a"] * 7),
    pa.array([["a", "b"]] * 7),
    pa.array([[]] * 7, pa.list_(pa.float32())),
])  # fmt: skip
def test_refuses_embeddings_that_are_no_equal_lists_of_numbers(saved, column):
    path = saved[1] / "run" / "embeddings.parquet"
    rows = pyarrow.parquet.read_table(path).drop_columns(["embedding"])
    pyarrow.parquet.write_table(rows.append_column("embedding", column), path)
    assert "no table of embeddings" in refusal(path)


def test_takes_lists_of_other_tools(saved):
    """What pandas and polars write: variable lists, float64, a missing row of none."""
    embeddings, folder = saved
    path = folder / "elsewhere" / "embeddings.parquet"
    path.parent.mkdir()
    pl.read_parquet(folder / "run" / "embeddings.parquet").with_columns(
        pl.col("embedding").cast(pl.List(pl.Float64))
    ).write_parquet(path)
    assert torch.equal(Embeddings.load(path).vectors, embeddings.vectors)


def test_a_table_without_origin_in_a_runs_folder_is_not_that_runs(saved):
    embeddings, folder = saved
    plain = pd.read_parquet(folder / "run" / "embeddings.parquet")
    pyarrow.parquet.write_table(
        pa.Table.from_pandas(plain).replace_schema_metadata(None), folder / "run" / "mine.parquet"
    )
    mine = Embeddings.load(folder / "run" / "mine.parquet")
    assert (mine.origin, mine.edge_types) == ({}, ())
    (folder / "run" / "mine.parquet").rename(folder / "run" / "embeddings.parquet")
    assert Embeddings.load(folder / "run" / "embeddings.parquet").origin == embeddings.origin, (
        "the run's own, written anew by another tool"
    )


def test_refuses_relations_that_do_not_belong(saved):
    _, folder = saved
    path, beside = folder / "run" / "embeddings.parquet", folder / "run" / "relations.parquet"
    table(dim=4).save(folder / "narrow")
    beside.write_bytes((folder / "narrow" / "relations.parquet").read_bytes())
    assert "4 dimensions, those of the nodes 6" in refusal(path)
    other = table()
    other.origin["graph_hash"] = "def"
    other.save(folder / "other")
    beside.write_bytes((folder / "other" / "relations.parquet").read_bytes())
    assert "another run's" in refusal(path)
    beside.write_bytes(b"noise")
    assert "no readable relations" in refusal(path)


def test_a_csv_that_cannot_be_written_is_the_users_to_mend(tmp_path):
    with pytest.raises(InputError, match="its folder does not exist"):
        table().save_csv(tmp_path / "no such folder" / "out.csv")


def test_files_are_replaced_together_or_not_at_all(saved):
    embeddings, folder = saved
    before = {path.name: path.read_bytes() for path in (folder / "run").iterdir()}
    (folder / "run" / "relations.parquet.new").mkdir()  # where the third file would be written
    with pytest.raises(OSError, match=r"relations\.parquet\.new"):
        dataclasses.replace(embeddings, vectors=embeddings.vectors + 1).save(folder / "run")
    (folder / "run" / "relations.parquet.new").rmdir()
    assert {path.name: path.read_bytes() for path in (folder / "run").iterdir()} == before
    dataclasses.replace(embeddings, vectors=embeddings.vectors + 1).save(folder / "run")
    after = {path.name: path.read_bytes() for path in (folder / "run").iterdir()}
    assert after.keys() == before.keys()
    assert after["embeddings.parquet"] != before["embeddings.parquet"]
