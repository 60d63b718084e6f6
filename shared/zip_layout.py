"""Where the members of a zip file lie, read strictly and without unpacking anything.

Two programs that read one zip differently are an attack: a check sees one file and the loader another. So everything
ambiguous is refused: bytes before the first member or after the end record, overlapping members, names that differ only
in case (torch's reader ignores case), local headers that contradict the central directory, encryption.

Format: PKWARE APPNOTE.TXT, sections 4.3 (structure) and 4.5.3 (zip64 extra field).
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

MAX_MEMBERS = 100_000
MAX_DIRECTORY_BYTES = 64 * 1024**2

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_STORED, _DEFLATED = 0, 8
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_UTF8 = 0x800
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF
_ZIP64_EXTRA = 1
_CHUNK_BYTES = 1024**2
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class ZipCorrupt(Exception):
    """The zip is truncated, contradicts itself, or can be read in two ways."""


class ZipHostile(Exception):
    """The zip is built to harm whoever unpacks it."""


@dataclass(frozen=True)
class ZipMember:
    """One member: `stored_bytes` bytes from `offset` on hold `size` bytes of content."""

    name: str
    offset: int
    stored_bytes: int
    size: int
    crc: int
    deflated: bool


@dataclass(frozen=True)
class Window:
    """A part of a file that is a zip of its own: the file itself, or a stored member of it."""

    file: BinaryIO
    start: int
    size: int

    def read(self, offset: int, count: int) -> bytes:
        """Exactly `count` bytes from `offset` on; ZipCorrupt when they are not there."""
        if offset < 0 or count < 0 or offset + count > self.size:
            raise ZipCorrupt("it is truncated")
        self.file.seek(self.start + offset)
        data = self.file.read(count)
        if len(data) != count:
            raise ZipCorrupt("it is truncated")
        return data

    def member(self, member: ZipMember) -> Window:
        """The window of a stored member."""
        return Window(self.file, self.start + member.offset, member.stored_bytes)


def is_zip(head: bytes) -> bool:
    """Whether a file that begins with these bytes means to be a zip."""
    return head.startswith((b"PK\x03\x04", b"PK\x05\x06"))


def read_members(window: Window, *, allow_deflate: bool) -> list[ZipMember]:
    """Every member, in the order of the directory; raises ZipCorrupt or ZipHostile."""
    directory_start, directory_bytes, count = _find_directory(window)
    directory = window.read(directory_start, directory_bytes)
    members, headers = [], []
    position = 0
    for _ in range(count):
        member, header_offset, position = _read_entry(window, directory, position, allow_deflate=allow_deflate)
        members.append(member)
        headers.append((header_offset, member.offset + member.stored_bytes))
    if position != len(directory):
        raise ZipCorrupt("its directory is longer than its members")
    previous_end = 0
    for start, end in sorted(headers):
        if start < previous_end or (previous_end == 0 and start != 0):
            raise ZipCorrupt("its members overlap or something stands before them")
        previous_end = end
    if previous_end > directory_start:
        raise ZipCorrupt("its members overlap its directory")
    if len({member.name.casefold() for member in members}) != len(members):
        raise ZipCorrupt("two members have the same name")
    return members


def read_content(window: Window, member: ZipMember, *, limit: int) -> bytes:
    """The whole content of a stored member of at most `limit` bytes, its checksum verified."""
    if member.size > limit:
        raise ZipHostile(f"{member.name} has {member.size} bytes, more than the {limit} that it may have")
    data = window.read(member.offset, member.stored_bytes)
    if zlib.crc32(data) != member.crc:
        raise ZipCorrupt(f"{member.name} does not have the checksum it was saved with")
    return data


def read_head(window: Window, member: ZipMember, count: int) -> bytes:
    """At most the first `count` bytes of the content, unpacked if need be; raises ZipCorrupt."""
    raw = window.read(member.offset, min(member.stored_bytes, count + 1024))
    if not member.deflated:
        return raw[:count]
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(raw, count)
    except zlib.error:
        raise ZipCorrupt(f"{member.name} cannot be unpacked") from None


def verify_checksum(window: Window, member: ZipMember) -> None:
    """Read a stored member through (2 GB/s) and compare its CRC-32; raises ZipCorrupt."""
    crc = 0
    for chunk in _chunks(window, member):
        crc = zlib.crc32(chunk, crc)
    if crc != member.crc:
        raise ZipCorrupt(f"{member.name} does not have the checksum it was saved with")


def _chunks(window: Window, member: ZipMember) -> Iterator[bytes]:
    for done in range(0, member.stored_bytes, _CHUNK_BYTES):
        yield window.read(member.offset + done, min(_CHUNK_BYTES, member.stored_bytes - done))


def _find_directory(window: Window) -> tuple[int, int, int]:
    """Start, size and number of entries of the central directory, which must end where the end record begins."""
    end_offset = window.size - _END.size
    record = window.read(end_offset, _END.size)
    signature, disk, first_disk, here, count, size, start, comment = _END.unpack(record)
    if signature != b"PK\x05\x06" or comment:
        raise ZipCorrupt("it is truncated: its directory is missing at the end")
    if disk or first_disk or here != count:
        raise ZipCorrupt("it is split over several files")
    directory_end = end_offset
    locator_offset = end_offset - _END64_LOCATOR.size
    locator = window.read(locator_offset, _END64_LOCATOR.size) if locator_offset >= 0 else b""
    if locator.startswith(b"PK\x06\x07"):
        _, _, end64_offset, _ = _END64_LOCATOR.unpack(locator)
        record64 = _END64.unpack(window.read(end64_offset, _END64.size))
        if record64[0] != b"PK\x06\x06" or end64_offset + _END64.size != locator_offset:
            raise ZipCorrupt("its directory is damaged")
        count64, size64, start64 = record64[7:]
        # A reader without zip64 must find the same directory.
        for narrow, wide, full in ((count, count64, _FULL16), (size, size64, _FULL32), (start, start64, _FULL32)):
            if narrow not in (wide, full):
                raise ZipCorrupt("it has two directories")
        count, size, start, directory_end = count64, size64, start64, end64_offset
    if start + size != directory_end:
        raise ZipCorrupt("its directory is damaged")
    if count > MAX_MEMBERS or size > MAX_DIRECTORY_BYTES:
        raise ZipHostile(f"it has {count} members, more than the {MAX_MEMBERS} that it may have")
    return start, size, count


def _read_entry(window: Window, directory: bytes, position: int, *, allow_deflate: bool) -> tuple[ZipMember, int, int]:
    """One entry of the directory and its local header; also where that header and the next entry begin."""
    if position + _CENTRAL.size > len(directory):
        raise ZipCorrupt("its directory is truncated")
    fields = _CENTRAL.unpack_from(directory, position)
    signature, flags, method, crc = fields[0], fields[3], fields[4], fields[7]
    sizes, (name_bytes, extra_bytes, comment_bytes), header_offset = fields[8:10], fields[10:13], fields[16]
    following = position + _CENTRAL.size + name_bytes + extra_bytes + comment_bytes
    if signature != b"PK\x01\x02" or following > len(directory):
        raise ZipCorrupt("its directory is damaged")
    name_start = position + _CENTRAL.size
    raw_name = directory[name_start : name_start + name_bytes]
    extra = directory[name_start + name_bytes : name_start + name_bytes + extra_bytes]
    name = _decode_name(raw_name, flags)
    size, stored_bytes, header_offset = _widen([sizes[1], sizes[0], header_offset], extra)
    if flags & _ENCRYPTED:
        raise ZipCorrupt(f"{name} is encrypted")
    if method not in (_STORED, _DEFLATED) or (method == _STORED and size != stored_bytes):
        raise ZipCorrupt(f"{name} is packed in a way that is not read here")
    if method == _DEFLATED and not allow_deflate:
        raise ZipHostile(f"{name} is compressed, which PyTorch never does")
    local = _LOCAL.unpack(window.read(header_offset, _LOCAL.size))
    same_name = window.read(header_offset + _LOCAL.size, local[9]) == raw_name
    if local[0] != b"PK\x03\x04" or local[3] != method or not same_name:
        raise ZipCorrupt(f"{name} is not where the directory says")
    offset = header_offset + _LOCAL.size + local[9] + local[10]
    if offset + stored_bytes > window.size:
        raise ZipCorrupt(f"it is truncated within {name}")
    return ZipMember(name, offset, stored_bytes, size, crc, method == _DEFLATED), header_offset, following


def _decode_name(raw: bytes, flags: int) -> str:
    try:
        name = raw.decode("utf-8" if flags & _UTF8 else "ascii")
    except UnicodeDecodeError:
        raise ZipCorrupt("a member's name is not text") from None
    parts = name.split("/")
    if not name or _CONTROL.search(name) or "\\" in name or not {"", ".", ".."}.isdisjoint(parts):
        raise ZipHostile(f"the member name {name!r} leaves its folder")
    return name


def _widen(values: list[int], extra: bytes) -> list[int]:
    """[size, stored size, header offset], each that is full replaced from the zip64 extra field, in that order."""
    wide: bytes | None = None
    position = 0
    while position + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, position)
        if tag == _ZIP64_EXTRA:
            if wide is not None:
                raise ZipCorrupt("its directory is damaged")
            wide = extra[position + 4 : position + 4 + length]
        position += 4 + length
    widened = []
    for value in values:
        if value == _FULL32:
            if wide is None or len(wide) < 8:
                raise ZipCorrupt("its directory is damaged")
            value = int.from_bytes(wide[:8], "little")  # noqa: PLW2901 - replaces the narrow value it stands for
            wide = wide[8:]
        widened.append(value)
    return widened
