"""Files of a journal: framed records that say themselves whether they are whole."""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from napari_sa2net.errors import JournalError
from napari_sa2net.files import write_atomically

#: First bytes of a log and of a snapshot; the digit is the version of the format.
MAGIC = b"sa2net journal 1\n"
STEP, COMMITTED, SNAPSHOT, CHUNK, END = range(5)

# Mark, kind, number, length of the header and of the payload; then a CRC-32 of all of it.
_HEAD = struct.Struct("<4sBQII")
_CRC = struct.Struct("<I")
_MARK = b"\xa7sa2"
_CHUNK_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Frame:
    """One record.

    Attributes
    ----------
    kind : int
        STEP, COMMITTED, SNAPSHOT, CHUNK or END.
    number : int
        Of the step; of others, the number of steps before it.
    header : dict
        Plain values.
    payload : bytes
    """

    kind: int
    number: int
    header: dict[str, Any]
    payload: bytes = b""


@dataclass
class LogScan:
    """What can be read of a log.

    Attributes
    ----------
    frames : list of Frame
        Whole ones, up to the first that is not.
    good_bytes, lost_bytes : int
        Length of these, and of what comes after: the last record of a process that died.
    """

    frames: list[Frame] = field(default_factory=list)
    good_bytes: int = 0
    lost_bytes: int = 0


def frame_bytes(frame: Frame) -> bytes:
    """A record as it is written; TypeError if the header is not plain values."""
    header = json.dumps(frame.header, ensure_ascii=False).encode("utf-8", "surrogatepass")
    head = _HEAD.pack(_MARK, frame.kind, frame.number, len(header), len(frame.payload))
    crc = zlib.crc32(frame.payload, zlib.crc32(header, zlib.crc32(head)))
    return b"".join((head, header, frame.payload, _CRC.pack(crc)))


def read_frames(file: BinaryIO) -> Iterator[Frame]:
    """Records from an open file's position, up to the end or the first that is not whole."""
    while len(head := file.read(_HEAD.size)) == _HEAD.size:
        mark, kind, number, n_header, n_payload = _HEAD.unpack(head)
        if mark != _MARK:
            return
        header, payload = file.read(n_header), file.read(n_payload)
        crc = zlib.crc32(payload, zlib.crc32(header, zlib.crc32(head)))
        if file.read(_CRC.size) != _CRC.pack(crc):
            return
        yield Frame(kind, number, json.loads(header), payload)


def scan_log(path: Path, first: int) -> LogScan:
    """Read a log whose first step should have the number `first`; an absent one is empty.

    Raises
    ------
    JournalError
        If it cannot be read, or is of a newer version.
    """
    scan = LogScan()
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
            if magic == MAGIC:
                scan.good_bytes = len(MAGIC)
                expected = first
                for frame in read_frames(file):
                    # A gap cannot be undone or redone across.
                    if frame.kind == STEP and frame.number != expected:
                        break
                    expected += frame.kind == STEP
                    scan.frames.append(frame)
                    scan.good_bytes = file.tell()
            elif len(magic) == len(MAGIC) and magic.startswith(MAGIC[:-2]):
                raise JournalError(
                    f"{path} was written by a newer version of this program. Update: "
                    "pip install -U napari-sa2net"
                )
    except FileNotFoundError:
        return scan
    except OSError as error:
        raise JournalError(f"{path} cannot be read ({error}).") from error
    scan.lost_bytes = size - scan.good_bytes
    return scan


def write_snapshot(
    path: Path,
    arrays: Mapping[str, Any],
    number: int,
    header: Mapping[str, Any],
) -> None:
    """Write arrays, compressed and whole or not at all.

    Parameters
    ----------
    path : Path
    arrays : mapping of str to array
        Anything with shape, dtype and slicing; read block by block.
    number : int
        Steps that are in them.
    header : mapping of plain values

    Raises
    ------
    OutputError
    """
    described = {
        name: {"dtype": np.dtype(array.dtype).str, "shape": [int(n) for n in array.shape]}
        for name, array in arrays.items()
    }

    def save(file: BinaryIO) -> None:
        import imagecodecs

        file.write(MAGIC)
        top = {"arrays": described, **header}
        file.write(frame_bytes(Frame(SNAPSHOT, number, top)))
        for name, array in arrays.items():
            for index, (start, stop) in _slabs(tuple(described[name]["shape"]), array.dtype):
                slab = np.ascontiguousarray(array[(*index, slice(start, stop))])
                packed = bytes(imagecodecs.zstd_encode(slab.tobytes(), level=1))
                place = {"array": name, "index": list(index), "rows": [start, stop]}
                file.write(frame_bytes(Frame(CHUNK, number, place, packed)))
        file.write(frame_bytes(Frame(END, number, {})))

    write_atomically(path, save, durable=True, make_folder=False)


def read_snapshot_header(path: Path) -> Frame:
    """The first record of a snapshot.

    Raises
    ------
    JournalError
    """
    with _opened(path) as file:
        return _first(path, file)


def read_snapshot(path: Path) -> tuple[Frame, dict[str, NDArray[Any]]]:
    """First record and arrays of a snapshot.

    Raises
    ------
    JournalError
        If it is damaged.
    """
    import imagecodecs

    with _opened(path) as file:
        top = _first(path, file)
        arrays = {
            name: np.zeros(tuple(one["shape"]), np.dtype(one["dtype"]))
            for name, one in top.header["arrays"].items()
        }
        for frame in read_frames(file):
            if frame.kind == END:
                return top, arrays
            array = arrays[frame.header["array"]]
            start, stop = frame.header["rows"]
            rows = array[(*frame.header["index"], slice(start, stop))]
            raw = imagecodecs.zstd_decode(frame.payload)
            rows[...] = np.frombuffer(raw, array.dtype).reshape(rows.shape)
    raise _damaged(path)


def _opened(path: Path) -> BinaryIO:
    try:
        file = path.open("rb")
    except OSError as error:
        raise JournalError(f"{path} cannot be read ({error}).") from error
    if file.read(len(MAGIC)) != MAGIC:
        file.close()
        raise _damaged(path)
    return file


def _first(path: Path, file: BinaryIO) -> Frame:
    frame = next(read_frames(file), None)
    if frame is None or frame.kind != SNAPSHOT:
        raise _damaged(path)
    return frame


def _damaged(path: Path) -> JournalError:
    return JournalError(
        f"{path} is damaged, or of a newer version, so these edits cannot be restored. "
        "Discard the journal, or update this program."
    )


def _slabs(
    shape: tuple[int, ...], dtype: Any
) -> Iterator[tuple[tuple[int, ...], tuple[int, int]]]:
    """Plane and rows of blocks of bounded size; an array of one axis is one block of rows."""
    stack, plane = shape[:-2], shape[-2:]
    row_bytes = math.prod(plane[1:]) * np.dtype(dtype).itemsize
    step = max(1, _CHUNK_BYTES // max(1, row_bytes))
    for index in np.ndindex(stack):
        for start in range(0, plane[0], step):
            yield index, (start, min(plane[0], start + step))
