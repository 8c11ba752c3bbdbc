"""Reads HTTP/1.1 replies from bytes as they come: the head, then a body in chunks or of a stated length."""

from dataclasses import dataclass

HEAD_BYTES_MAX = 64 * 1024
HEADERS_MAX = 100
SIZE_LINE_BYTES_MAX = 1024
"""Of a chunk's size with its extensions, and of a trailer's line."""
TRAILER_LINES_MAX = 100
SIZE_DIGITS_MAX = 15
SIZES = {b"%x" % size: size for size in range(1, 1024)}
"""Sizes of chunks as servers write them, up to that of an event of a few tokens."""


class ReplyError(Exception):
    """The bytes are no reply by the rules."""


@dataclass(frozen=True, slots=True)
class Head:
    """Status and headers of a reply."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    version: bytes = b"HTTP/1.1"

    def values(self, name: bytes) -> list[bytes]:
        """Return the values of a header, by its name in lower case."""
        return [value for known, value in self.headers if known.lower() == name]

    @property
    def keeps_connection(self) -> bool:
        """Whether another request may follow on the same connection."""
        words = b",".join(self.values(b"connection")).lower().split(b",")
        return self.version == b"HTTP/1.1" and b"close" not in (word.strip() for word in words)


def read_head(data: bytes) -> Head:
    """Read a head without its empty line. Raises ReplyError."""
    first, *lines = data.split(b"\r\n")
    version, _, rest = first.partition(b" ")
    status = rest[:3]
    if version not in (b"HTTP/1.1", b"HTTP/1.0") or len(status) != 3 or not status.isdigit() or rest[3:4] not in b" ":
        raise ReplyError("it does not begin with a status of HTTP/1.1")
    if len(lines) > HEADERS_MAX:
        raise ReplyError(f"it has more than {HEADERS_MAX} headers")
    headers = []
    for line in lines:
        name, separator, value = line.partition(b":")
        if not separator or not name or name != name.strip() or b"\n" in line or b"\r" in line or b"\0" in line:
            raise ReplyError("it has a malformed header")
        headers.append((name, value.strip(b" \t")))
    return Head(int(status), tuple(headers), version)


class LengthBody:
    """A body of a stated length."""

    def __init__(self, length: int) -> None:
        self._left = length
        self.has_surplus = False
        """Whether more came than belongs to the body."""

    @property
    def is_complete(self) -> bool:
        """Whether all has come."""
        return self._left == 0

    def feed(self, data: bytes) -> bytes:
        """Return what of `data` belongs to the body."""
        part = data[: self._left]
        self._left -= len(part)
        self.has_surplus = self.has_surplus or len(part) < len(data)
        return part


class ChunkedBody:
    """A body in chunks."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._left = 0
        """Bytes of the present chunk that have not come."""
        self._ends_line = False
        """Whether the end of a chunk's line is next."""
        self._in_trailer = False
        self._trailer_lines = 0
        self.is_complete = False

    @property
    def has_surplus(self) -> bool:
        """Whether more came than belongs to the body."""
        return self.is_complete and bool(self._buffer)

    def feed(self, data: bytes) -> bytes:
        """Return the content of `data` that is complete. Raises ReplyError."""
        if not (self._buffer or self._left or self._ends_line or self._in_trailer):
            # One whole chunk, as servers send each event: what is below takes five times as long.
            end = data.find(b"\r\n", 0, SIZE_LINE_BYTES_MAX)
            if end > 0 and 0 < len(data) - end - 4 == _size_of(data[:end]) and data.endswith(b"\r\n"):
                return data[end + 2 : -2]
        self._buffer += data
        content = bytearray()
        while not self.is_complete:
            if self._left:
                part = self._buffer[: self._left]
                content += part
                self._left -= len(part)
                del self._buffer[: len(part)]
                if self._left:
                    break
                self._ends_line = True
            line = self._line()
            if line is None:
                break
            self._take(line)
        return bytes(content)

    def _line(self) -> bytes | None:
        end = self._buffer.find(b"\r\n")
        if end > SIZE_LINE_BYTES_MAX or (end < 0 and len(self._buffer) > SIZE_LINE_BYTES_MAX):
            raise ReplyError("the line before a chunk is too long")
        if end < 0:
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _take(self, line: bytes) -> None:
        if self._ends_line:
            if line:
                raise ReplyError("a chunk is longer than it says")
            self._ends_line = False
        elif self._in_trailer:
            self._trailer_lines += 1
            if self._trailer_lines > TRAILER_LINES_MAX:
                raise ReplyError("the trailer is too long")
            self.is_complete = not line
        else:
            self._left = _size_of(line)
            self._in_trailer = self._left == 0


def _size_of(line: bytes) -> int:
    size = SIZES.get(line)  # of most events
    if size is not None:
        return size
    digits = line.partition(b";")[0].strip(b" \t")
    if not digits or len(digits) > SIZE_DIGITS_MAX or digits.strip(b"0123456789abcdefABCDEF"):
        raise ReplyError("the size of a chunk is no number")
    return int(digits, 16)


def body_of(head: Head) -> LengthBody | ChunkedBody:
    """Return what reads the body that follows `head`. Raises ReplyError if its end could not be told from a cut."""
    encodings, lengths = head.values(b"transfer-encoding"), head.values(b"content-length")
    if encodings:
        if lengths or [encoding.lower() for encoding in encodings] != [b"chunked"]:
            raise ReplyError("the length of the body is not clear")
        return ChunkedBody()
    if head.status in (204, 304):
        return LengthBody(0)
    if len(set(lengths)) != 1 or not lengths[0].isdigit() or len(lengths[0]) > SIZE_DIGITS_MAX:
        raise ReplyError("the length of the body is not said")
    return LengthBody(int(lengths[0]))
