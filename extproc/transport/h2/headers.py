"""Header blocks: decoding those of the client (RFC 7541) and encoding our few.

Decoding is the dearest part of a small exchange: `hpack` takes 25 µs for the 47 bytes that Envoy
sends per request. Two facts make most of that unnecessary. Huffman decoding is a pure function of
the string, so its results can be kept. And a block that leaves the dynamic table as it was decodes
to the same list until the table changes, so a whole block can be kept too (``RequestReader``
does, by :attr:`HeaderDecoder.generation`). Table and Huffman code are those of `hpack`.
"""

from __future__ import annotations

from typing import Final

from hpack.exceptions import HPACKError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from extproc.transport.h2.frames import DEFAULT_TABLE_SIZE, ConnectionBrokenError, ErrorCode

Field = tuple[bytes, bytes]

_STATIC: Final = tuple(HeaderTable.STATIC_TABLE)
_STATIC_COUNT: Final = len(_STATIC)
_MAX_CONTINUED_BYTES: Final = 5
_STRINGS_KEPT: Final = 256
_LONGEST_STRING_KEPT: Final = 256


class HeaderDecoder:
    """Decodes the header blocks of one connection, in the order in which they arrive.

    ``max_list`` bounds a decoded list (RFC 7541 4.1: name + value + 32 per field), ``max_fields``
    its length.
    """

    __slots__ = ("_max_fields", "_max_list", "_strings", "_table", "generation")

    def __init__(self, max_list: int, max_fields: int) -> None:
        self._table = HeaderTable()
        self._max_list = max_list
        self._max_fields = max_fields
        self._strings: dict[bytes, bytes] = {}
        self.generation = 0
        """Changes whenever the dynamic table does. What a block decoded to holds as long as this
        stays the same."""

    def decode(self, block: bytes) -> list[Field]:
        """The fields of a block.

        :raises ConnectionBrokenError: it cannot be decoded, or is too large. The tables of the two
            sides may differ from then on, so the connection is lost.
        """
        try:
            return self._decode(block)
        except IndexError:
            raise ConnectionBrokenError(
                ErrorCode.COMPRESSION_ERROR, "a header block ends in the middle of a field"
            ) from None
        except HPACKError as error:
            raise ConnectionBrokenError(
                ErrorCode.COMPRESSION_ERROR, f"a header block cannot be decoded: {error}"
            ) from None

    def _decode(self, block: bytes) -> list[Field]:
        fields: list[Field] = []
        table = self._table
        room = self._max_list
        position = 0
        end = len(block)
        resizes = 0
        while position < end:
            first = block[position]
            if first & 0x80:  # indexed field
                index, position = _integer(block, position, 0x7F)
                field = (
                    _STATIC[index - 1] if 0 < index <= _STATIC_COUNT else table.get_by_index(index)
                )
            elif first & 0x40:  # literal, to be kept in the table
                field, position = self._literal(block, position, 0x3F)
                table.add(*field)
                self.generation += 1
            elif first & 0x20:  # new size of the table
                resizes += 1
                if fields or resizes > 2:
                    raise HPACKError("the table's size changes where it may not")
                size, position = _integer(block, position, 0x1F)
                if size > DEFAULT_TABLE_SIZE:
                    raise HPACKError(f"a table of {size} bytes where {DEFAULT_TABLE_SIZE} is most")
                table.maxsize = size
                self.generation += 1
                continue
            else:  # literal, not to be kept
                field, position = self._literal(block, position, 0x0F)
            fields.append(field)
            room -= len(field[0]) + len(field[1]) + 32
            if room < 0:
                raise ConnectionBrokenError(
                    ErrorCode.ENHANCE_YOUR_CALM, f"a header list over {self._max_list} bytes"
                )
        if len(fields) > self._max_fields:
            raise ConnectionBrokenError(
                ErrorCode.ENHANCE_YOUR_CALM, f"a header list of more than {self._max_fields} fields"
            )
        return fields

    def _literal(self, block: bytes, position: int, mask: int) -> tuple[Field, int]:
        index, position = _integer(block, position, mask)
        if index:
            name = self._table.get_by_index(index)[0]
        else:
            name, position = self._string(block, position)
        value, position = self._string(block, position)
        return (name, value), position

    def _string(self, block: bytes, position: int) -> tuple[bytes, int]:
        huffman = block[position] & 0x80
        length, start = _integer(block, position, 0x7F)
        end = start + length
        if end > len(block):
            raise HPACKError("a string is longer than its block")
        raw = block[start:end]
        if not huffman:
            return raw, end
        text = self._strings.get(raw)
        if text is None:
            text = decode_huffman(raw)
            if length <= _LONGEST_STRING_KEPT:
                if len(self._strings) >= _STRINGS_KEPT:
                    self._strings.clear()
                self._strings[raw] = text
        return text, end


def _integer(block: bytes, position: int, mask: int) -> tuple[int, int]:
    """An integer whose first byte gives it the bits of ``mask`` (RFC 7541 5.1), and where it
    ends."""
    value = block[position] & mask
    position += 1
    if value < mask:
        return value, position
    for shift in range(0, 7 * _MAX_CONTINUED_BYTES, 7):
        byte = block[position]
        position += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise HPACKError("an integer is too long")


def encode_fields(fields: list[Field]) -> bytes:
    """A block of literals that no table keeps: it means the same at any time on any connection, so
    it can be made once."""
    parts: list[bytes] = []
    for name, value in fields:
        parts += (b"\x00", _length(len(name)), name, _length(len(value)), value)
    return b"".join(parts)


def _length(value: int) -> bytes:
    """A string's length, not Huffman-coded (RFC 7541 5.1, prefix of 7 bits)."""
    if value < 0x7F:
        return bytes((value,))
    encoded = bytearray((0x7F,))
    value -= 0x7F
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


TABLE_SIZE_ZERO: Final = b"\x20"
"""Before every block, once the client has shrunk our table: it is empty, so every limit that may
still be set is kept (RFC 7541 4.2)."""
