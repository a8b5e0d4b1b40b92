"""The rows of Parquet files as columns of codes.

In: the path of a file, or of the parts in a folder. Out: record batches of dictionary-encoded
strings. Whole numbers become integers. Null becomes an empty string.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from hgt.errors import InputError
from hgt.reading.columns import Columns, first_there
from hgt.reading.row_counts import FileCounts

MAGIC = b"PAR1"
_BATCH_ROWS = 1 << 18
# From here on a float of this many bits rounds some whole numbers.
_FIRST_INEXACT = {16: 2**11, 32: 2**24, 64: 2**53}
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class ParquetRows:
    """A Parquet file with a known schema.

    wanted: the set of columns that was found.
    columns: columns of it to read.
    spelled: {column: its name in the file}.
    constants: {column: value} from the names of folders above the file, as Spark and Hive write
        them.
    num_rows: number of rows.
    """

    path: Path
    wanted: Columns
    columns: tuple[str, ...]
    spelled: dict[str, str]
    constants: dict[str, str]
    num_rows: int

    @classmethod
    def open(cls, path: Path, wanted: Sequence[Columns], folder: Path | None = None) -> ParquetRows:
        """Read the schema.

        wanted: sets of columns; the first one in the file counts.
        folder: the folder of which the file is a part.

        Raises InputError when the data is damaged or a column is missing.
        """
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                names, num_rows = list(file.schema_arrow.names), file.metadata.num_rows
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{path}: the Parquet data is damaged ({_first_line(error)}). Write the file again."
            ) from error
        constants = _constants(path, folder) if folder is not None else {}
        columns = first_there(wanted, [*names, *constants])
        found = columns.find(path, [*names, *constants], "in the file")
        spelled = {c: [*names, *constants][place] for c, place in found.items()}
        return cls(path, columns, tuple(found), spelled, constants, num_rows)

    def batches(self, counts: FileCounts) -> Iterator[pa.RecordBatch]:
        """The rows in order. Raises InputError for damaged data and for columns without ids."""
        stored = [c for c in self.columns if self.spelled[c] not in self.constants]
        try:
            with pyarrow.parquet.ParquetFile(self.path) as file:
                for batch in file.iter_batches(
                    _BATCH_ROWS, columns=[self.spelled[c] for c in stored]
                ):
                    counts.rows += len(batch)
                    read = {c: self._codes(c, batch.column(self.spelled[c])) for c in stored}
                    for c in set(self.columns) - set(stored):
                        read[c] = pa.array(
                            [self.constants[self.spelled[c]]] * len(batch), pa.string()
                        ).dictionary_encode()
                    yield pa.RecordBatch.from_arrays(
                        [read[c] for c in self.columns], names=list(self.columns)
                    )
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{self.path}: cannot be read as a table of ids ({_first_line(error)}). Write the"
                " file again."
            ) from error

    def _codes(self, name: str, column: pa.Array) -> pa.DictionaryArray:
        """A column of strings or numbers as codes of strings. Null and NaN become empty strings."""
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if pa.types.is_null(column.type) or pa.types.is_float16(column.type):
            column = column.cast(pa.string() if pa.types.is_null(column.type) else pa.float32())
        codes = column.dictionary_encode()
        values = codes.dictionary
        if pa.types.is_floating(values.type):
            values = self._whole_floats(name, values)
        elif pa.types.is_decimal(values.type):
            values = pa.array([_whole(v) for v in values.to_pylist()], pa.string())
        values = values.cast(pa.string())
        # a Parquet file may hold bytes that are not UTF-8 in a column of strings
        values.validate(full=True)
        missing = pa.scalar(len(values), pa.int32())
        return pa.DictionaryArray.from_arrays(
            pc.fill_null(codes.indices, missing), pa.concat_arrays([values, pa.array([""])])
        )

    def _whole_floats(self, name: str, values: pa.Array) -> pa.Array:
        finite = pc.if_else(pc.is_finite(values), values, pa.scalar(0, values.type))
        largest, limit = pc.max(pc.abs(finite)).as_py() or 0, _FIRST_INEXACT[values.type.bit_width]
        if name.endswith("_id") and largest >= limit:
            raise InputError(
                f"{self.path}: column {self.spelled[name]} holds floats up to {largest:.0f}; from"
                f" {limit:,} on, floats can round whole numbers. Write the column as"
                " integers or strings."
            )
        told = [_whole(v) if v == v else "" for v in values.to_pylist()]
        return pa.array(told, pa.string())


def _whole(value: float | Decimal) -> str:
    """A whole float or decimal as an integer; others unchanged."""
    is_whole = (
        value.is_integer() if isinstance(value, float) else value == value.to_integral_value()
    )
    return str(int(value)) if is_whole else str(value)


def _constants(path: Path, folder: Path) -> dict[str, str]:
    """The columns that folders named `column=value` give to the files below them."""
    pairs = [part.split("=", 1) for part in path.relative_to(folder).parts[:-1] if "=" in part]
    return {unquote(name): "" if value == _HIVE_NULL else unquote(value) for name, value in pairs}


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
