"""The checksum of a store's file: SQLite itself takes a flipped bit in a number for another number."""

import os
import zlib
from pathlib import Path
from typing import IO

from expander_sae.records import ExpanderSaeError

# Of SQLite's header (sqlite.org/fileformat.html): two numbers that are the application's, user_version and
# application_id, and one that every transaction raises.
_SUM, _SEALED_AT, _CHANGES = slice(60, 64), slice(68, 72), slice(24, 28)
_HEADER = 100
_PIECE = 1 << 20
_whole: set[tuple[int, ...]] = set()
"""Files that this process has read to their end."""


def seal_file(path: Path) -> None:
    """Put the CRC-32 of a store that is written, and closed, into its header."""
    with open(path, "r+b") as file:
        header = bytearray(file.read(_HEADER))
        header[_SEALED_AT] = header[_CHANGES]
        header[_SUM] = bytes(4)
        header[_SUM] = (_crc(bytes(header), file) or 1).to_bytes(4, "big")
        file.seek(0)
        file.write(header)


def check_file(path: Path) -> None:
    """Compare the checksum with the file, once in a process; one of an earlier release has none, nor has one that was
    changed by SQL since.

    Raises:
        ExpanderSaeError: they differ.
    """
    with open(path, "rb") as file:
        found = os.fstat(file.fileno())
        known = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        header = bytearray(file.read(_HEADER))
        told = int.from_bytes(header[_SUM], "big")
        if known in _whole or len(header) < _HEADER or told == 0 or header[_SEALED_AT] != header[_CHANGES]:
            return
        header[_SUM] = bytes(4)
        if (_crc(bytes(header), file) or 1) != told:
            raise ExpanderSaeError(
                f"expected the feature store that was written to {path}; got a damaged file: its checksum is not the "
                "one in its header. Copy it again, or make it anew with `expander-sae features`."
            )
    _whole.add(known)


def _crc(header: bytes, file: IO[bytes]) -> int:
    found = zlib.crc32(header)
    while piece := file.read(_PIECE):
        found = zlib.crc32(piece, found)
    return found
