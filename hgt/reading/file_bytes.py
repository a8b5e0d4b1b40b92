"""The bytes of a file, unpacked and as UTF-8.

In: a path. Out: blocks of bytes. The first bytes show packing and encoding; the file's name never
does. Reads gzip, bzip2, xz, Zstandard, a zip of one file, UTF-16 and UTF-32. Knows no rows.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa

from hgt.errors import InputError
from hgt.reading.file_format import refuse_other_formats

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_PACKINGS = {
    "gzip": re.compile(rb"\x1f\x8b"),
    "bzip2": re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"),  # what follows tells it from text
    "xz": re.compile(rb"\xfd7zXZ\x00"),
    "Zstandard": re.compile(rb"\x28\xb5\x2f\xfd"),
    "zip": re.compile(rb"PK\x03\x04|PK\x05\x06"),  # the second: an empty one
}
_ENCODINGS = {  # UTF-32 first: its mark begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_STREAMS: dict[str, Callable[[], Any]] = {"bzip2": bz2.BZ2Decompressor, "xz": lzma.LZMADecompressor}
_PACKED_BYTES = 1 << 16  # read at a time
_SAMPLE_BYTES = 64
_SIDECARS = ("__MACOSX/", ".DS_Store")  # what a Mac packs beside a file


def packing(path: Path) -> str | None:
    """The name of the packing; None for a file that is not packed."""
    with path.open("rb") as file:
        start = file.read(16)
    return next((name for name, magic in _PACKINGS.items() if magic.match(start)), None)


def first_bytes(path: Path, num_bytes: int) -> bytes:
    """The first unpacked bytes of the file, in its own encoding."""
    with explained(path), _unpacked(path) as file:
        return file.read(num_bytes)


def utf8_blocks(path: Path, block_bytes: int) -> Iterator[bytes]:
    """The file's text in blocks of UTF-8, without a byte order mark.

    Raises InputError for damaged data, and for invalid UTF-16 or UTF-32. The reader of the values
    checks UTF-8.
    """
    with explained(path), _unpacked(path) as file:
        block = file.read(max(block_bytes, _SAMPLE_BYTES))
        encoding = encoding_of(block)
        if encoding is None:
            block = block.removeprefix(BYTE_ORDER_MARK)
            while block:
                yield block
                block = file.read(block_bytes)
            return
        decoder = codecs.getincrementaldecoder(encoding)()
        while block:
            yield _decoded(path, decoder, block, final=False)
            block = file.read(block_bytes)
        yield _decoded(path, decoder, b"", final=True)


def encoding_of(start: bytes) -> str | None:
    """The encoding that a mark or the zeros of ASCII text show; None for UTF-8."""
    for mark, name in _ENCODINGS.items():
        if start.startswith(mark):
            return name
    sample = start[:_SAMPLE_BYTES]
    if len(sample) < 8 or b"\x00" not in sample:
        return None
    even, odd = sample[::2], sample[1::2]
    if not any(odd) and all(even):
        return "utf-16-le"
    return "utf-16-be" if not any(even[: len(odd)]) and all(odd) else None


def _decoded(path: Path, decoder: codecs.IncrementalDecoder, block: bytes, final: bool) -> bytes:
    try:
        return decoder.decode(block, final).encode("utf-8", "strict")
    except UnicodeError as error:
        raise InputError(
            f"{path}: is damaged UTF-16 or UTF-32 ({getattr(error, 'reason', error)}). Save the"
            " file as UTF-8."
        ) from error


@contextmanager
def _unpacked(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes. They are unpacked when their first bytes are those of a packed file."""
    packed_by = packing(path)
    if packed_by == "zip":
        with zipfile.ZipFile(path) as archive, archive.open(_only_member(path, archive)) as member:
            yield member
        return
    if packed_by == "Zstandard":
        with pa.input_stream(str(path), compression="zstd") as file:
            yield cast(IO[bytes], file)
        return
    if packed_by in _STREAMS:
        with path.open("rb") as packed:
            yield cast(IO[bytes], io.BufferedReader(_Streams(packed, _STREAMS[packed_by])))
        return
    with gzip.open(path, "rb") if packed_by == "gzip" else path.open("rb") as file:
        yield cast(IO[bytes], file)


class _Streams(io.RawIOBase):
    """Packed streams, one after the other. Other bytes after them are an error. Python's own
    readers silently skip these bytes and all after them.
    """

    def __init__(self, packed: IO[bytes], unpacker: Callable[[], Any]):
        self._packed, self._new = packed, unpacker
        self._unpacker, self._pending = unpacker(), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self._unpacker.eof:
                # xz pads
                self._pending = self._unpacker.unused_data.lstrip(b"\0") or self._packed.read(
                    _PACKED_BYTES
                ).lstrip(b"\0")
                if not self._pending:
                    return 0
                self._unpacker = self._new()
            elif self._unpacker.needs_input and not self._pending:
                self._pending = self._packed.read(_PACKED_BYTES)
                if not self._pending:
                    raise EOFError("it ends before its stream does")
            unpacked = self._unpacker.decompress(self._pending, len(buffer))
            self._pending = b""
            if unpacked:
                buffer[: len(unpacked)] = unpacked
                return len(unpacked)


def _only_member(path: Path, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    members = [m for m in archive.infolist() if not m.is_dir() and not _is_sidecar(m.filename)]
    names = [m.filename for m in members]
    refuse_other_formats(path, b"PK\x03\x04", names)
    if len(members) != 1:
        inside = f"{len(members)} files ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"
        raise InputError(
            f"{path}: is a zip archive of {inside if members else 'no file'}; one is expected. "
            f"Unpack it (`unzip {path.name}`) and give the file or folder to read."
        )
    if members[0].flag_bits & 1:
        raise InputError(
            f"{path}: is a zip archive with a password. Unpack it (`unzip {path.name}`) first."
        )
    return members[0]


def _is_sidecar(name: str) -> bool:
    return name.startswith(_SIDECARS[0]) or name.endswith(_SIDECARS[1])


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn errors of reading bytes into an InputError."""
    try:
        yield
    except (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, gzip.BadGzipFile) as error:
        raise InputError(_damaged(path, error)) from error
    except NotImplementedError as error:
        raise InputError(
            f"{path}: is packed in a way that cannot be read here ({error}). Unpack it first."
        ) from error
    except PermissionError as error:
        raise InputError(
            f"{path}: may not be read by this user. Change its permissions."
        ) from error
    except OSError as error:
        # of bz2 and Arrow's unpacking; what the system refuses has a number
        if error.errno is None:
            raise InputError(_damaged(path, error)) from error
        raise InputError(
            f"{path}: cannot be read ({error.strerror or error}). Check the path and the disk."
        ) from error


def _damaged(path: Path, error: Exception) -> str:
    said = (str(error) or type(error).__name__).splitlines()[0]
    return (
        f"{path}: the {packing(path) or 'packed'} data is damaged ({said}). Copy or download the"
        " file again."
    )
