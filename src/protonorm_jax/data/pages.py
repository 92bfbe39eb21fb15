"""How much the pages of a parquet file unpack to, read from the pages and not from a summary.

A parquet file ends in a footer that says where the pages of each column lie; each page begins with
a header that says how long it is, packed and unpacked. PyArrow makes room for what the header says,
and ends the process on some broken footers, so both are read here first. They are in Thrift's
compact protocol: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
and https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift.
"""

from typing import Any, BinaryIO

MAX_FOOTER_BYTES = 2**22
"""A longer footer is of no image set; it has about 200 bytes a column and row group."""

Struct = dict[int, Any]
"""The fields of a struct by their numbers."""

# Numbers of fields in parquet.thrift.
_ROW_GROUPS = 4
_COLUMNS = 1
_METADATA = 3
_PATH, _PACKED, _FIRST_PAGE, _DICTIONARY_PAGE = 3, 7, 9, 11
_PAGE_UNPACKED, _PAGE_PACKED = 2, 3

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
_MAX_DEPTH = 16
_HEADER_BYTES = (2**12, 2**16, 2**24)  # Tried one after the other; few headers have statistics.


def unpacked(file: BinaryIO, column: str) -> list[int]:
    """How many bytes a column unpacks to.

    Args:
      file: a parquet file.
      column: its name in the schema's first level.

    Returns:
      Of each row group, the bytes of all its pages of that column.

    Raises:
      ValueError: the footer or a header is broken.
    """
    end = file.seek(0, 2)
    file.seek(max(end - 8, 0))
    tail = file.read(8)
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != b"PAR1" or not 0 < length <= end - 8:
        raise ValueError("no parquet footer")
    if length > MAX_FOOTER_BYTES:
        raise ValueError(f"a footer of {length:,} bytes, more than {MAX_FOOTER_BYTES:,}")
    file.seek(end - 8 - length)
    try:
        groups = _Reader(file.read(length)).struct().get(_ROW_GROUPS, [])
        return [
            sum(_unpacked_chunk(file, one) for one in _chunks(group, column)) for group in groups
        ]
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError) as error:
        raise ValueError("a broken footer, or a broken header of a page") from error


def _chunks(group: Struct, column: str) -> list[Struct]:
    """What is said of the column's part in a row group; a struct has a chunk for each field."""
    found = [chunk[_METADATA] for chunk in group.get(_COLUMNS, []) if _METADATA in chunk]
    return [one for one in found if one.get(_PATH, [b""])[0] == column.encode()]


def _unpacked_chunk(file: BinaryIO, chunk: Struct) -> int:
    """Bytes that the pages of one chunk unpack to."""
    start = chunk.get(_DICTIONARY_PAGE) or chunk[_FIRST_PAGE]
    start = min(start, chunk[_FIRST_PAGE])
    position, total = start, 0
    while position < start + chunk[_PACKED]:
        header, length = _page_header(file, position)
        if header[_PAGE_PACKED] < 0 or header[_PAGE_UNPACKED] < 0:
            raise ValueError("a page of negative length")
        total += header[_PAGE_UNPACKED]
        position += length + header[_PAGE_PACKED]
    return total


def _page_header(file: BinaryIO, position: int) -> tuple[Struct, int]:
    """The header of the page at a position, and its length."""
    for size in _HEADER_BYTES:
        file.seek(position)
        reader = _Reader(file.read(size))
        try:
            return reader.struct(), reader.position
        except IndexError:
            continue
    raise ValueError("a page's header that does not end")


class _Reader:
    """Reads Thrift's compact protocol; IndexError where the bytes end too early."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.position = 0

    def struct(self, depth: int = 0) -> Struct:
        """The fields of a struct."""
        if depth > _MAX_DEPTH:
            raise ValueError("structs that are nested too deep")
        fields: Struct = {}
        number = 0
        while head := self._byte():
            kind, step = head & 15, head >> 4
            number = number + step if step else self._integer()
            # Of a field, the kind is the truth value.
            fields[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (_TRUE, _FALSE, _BYTE):
            return self._byte()
        if kind in (_I16, _I32, _I64):
            return self._integer()
        if kind == _DOUBLE:
            return self._bytes(8)
        if kind == _BINARY:
            return self._bytes(self._number())
        if kind in (_LIST, _SET):
            return self._list(depth)
        if kind == _STRUCT:
            return self.struct(depth + 1)
        raise ValueError(f"a field of kind {kind}, which parquet does not have")

    def _list(self, depth: int) -> list[Any]:
        if depth > _MAX_DEPTH:
            raise ValueError("lists that are nested too deep")
        head = self._byte()
        size = head >> 4 if head >> 4 < 15 else self._number()
        # Each element takes a byte at least: a size that lies ends where the bytes end.
        return [self._value(head & 15, depth + 1) for _ in range(size)]

    def _byte(self) -> int:
        self.position += 1
        return self._content[self.position - 1]

    def _bytes(self, size: int) -> bytes:
        if size > len(self._content) - self.position:
            raise IndexError
        self.position += size
        return self._content[self.position - size : self.position]

    def _number(self) -> int:
        """An unsigned number: seven bits a byte, the low ones first."""
        value = shift = 0
        while True:
            one = self._byte()
            value |= (one & 127) << shift
            if one < 128:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    def _integer(self) -> int:
        """A signed number, the sign in the lowest bit."""
        value = self._number()
        return (value >> 1) ^ -(value & 1)
