"""Negotiation of protocols (multistream-select): bounded lines, bounded questions, one deadline.

libp2p 0.8.1 reads a line of whatever length its prefix claims, up to 2^64 bytes, before the peer has even shown a key,
and answers as many questions as are asked until its deadline. Here a line has at most `LINE_BYTES_MAX` bytes and a
negotiation at most `QUESTIONS_MAX` questions. Watched by
test_a_line_without_end_is_read_whole_by_an_unguarded_host_but_not_by_ours.
"""

from collections.abc import Sequence
from typing import Any, cast

from libp2p.custom_types import TProtocol
from libp2p.protocol_muxer.exceptions import MultiselectClientError, MultiselectCommunicatorError
from libp2p.protocol_muxer.multiselect import PROTOCOL_NOT_FOUND_MSG, Multiselect
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.utils import encode_delim

LINE_BYTES_MAX = 1024
"""Protocol names are short; what is longer is no question of an honest peer's."""
QUESTIONS_MAX = 32
"""More than any implementation has names for one protocol."""
PREFIX_BYTES_MAX = 2
"""Of the length, in seven bits a byte: enough for LINE_BYTES_MAX."""
NEGOTIATION_SECONDS_MAX = 10
"""For one stream or one layer of a connection."""


class MalformedNegotiationError(MultiselectCommunicatorError):
    """The peer said what no multistream-select implementation says."""


class UnsupportedProtocolError(MultiselectClientError):
    """The peer answered, and speaks none of what it was offered."""


class BoundedCommunicator:
    """Reads and writes the lines of one negotiation over anything with `read` and `write`."""

    def __init__(self, reader: Any) -> None:
        self._stream = reader
        self._lines = 0
        self.newest = ""
        """The line that was read last."""

    async def write(self, line: str) -> None:
        """Send a line."""
        try:
            await self._stream.write(encode_delim(line.encode()))
        except Exception as error:  # the layers below have no common base
            raise MultiselectCommunicatorError(f"cannot write: {error!r}") from error

    async def read(self) -> str:
        """Return the next line. Raises MalformedNegotiationError, or its base if the connection is gone."""
        self._lines += 1
        if self._lines > QUESTIONS_MAX:
            raise MalformedNegotiationError(f"more than {QUESTIONS_MAX} lines")
        line = await self._exactly(await self._length())
        if not line.endswith(b"\n"):
            raise MalformedNegotiationError("a line without an end")
        try:
            self.newest = line[:-1].decode()
        except UnicodeDecodeError as error:
            raise MalformedNegotiationError("a line that is no UTF-8") from error
        return self.newest

    async def _length(self) -> int:
        length = 0
        for position in range(PREFIX_BYTES_MAX):
            (byte,) = await self._exactly(1)
            length |= (byte & 0x7F) << (7 * position)
            if byte < 0x80:
                if not 0 < length <= LINE_BYTES_MAX:
                    raise MalformedNegotiationError(f"a line of {length} bytes")
                return length
        raise MalformedNegotiationError("the length of a line is too large")

    async def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            try:
                more = await self._stream.read(count - len(data))
            except Exception as error:  # the layers below have no common base
                raise MultiselectCommunicatorError(f"cannot read: {error!r}") from error
            if not more:
                raise MultiselectCommunicatorError("the connection has ended")
            data += more
        return data


class BoundedMultiselect(Multiselect):
    """The answering side."""

    async def negotiate(
        self, communicator: Any, negotiate_timeout: int = NEGOTIATION_SECONDS_MAX
    ) -> tuple[TProtocol | None, Any]:
        """As the library's, within bounds."""
        lines: Any = BoundedCommunicator(communicator.read_writer)
        return await super().negotiate(lines, min(negotiate_timeout, NEGOTIATION_SECONDS_MAX))


class BoundedMultiselectClient(MultiselectClient):
    """The asking side."""

    async def select_one_of(
        self, protocols: Sequence[TProtocol], communicator: Any, negotiate_timeout: int = NEGOTIATION_SECONDS_MAX
    ) -> TProtocol:
        """As the library's, within bounds. Raises UnsupportedProtocolError where the answer is no."""
        limit = min(negotiate_timeout, NEGOTIATION_SECONDS_MAX)
        lines = BoundedCommunicator(communicator.read_writer)
        try:
            return await super().select_one_of(protocols, cast(Any, lines), limit)
        except MultiselectClientError as error:
            if lines.newest == PROTOCOL_NOT_FOUND_MSG:
                raise UnsupportedProtocolError(f"it speaks none of {list(protocols)}") from error
            raise


def bound_negotiation(negotiator: Any) -> None:
    """Replace both sides in a host or a selector of the library's; its protocols are kept."""
    negotiator.multiselect = BoundedMultiselect(cast(Any, negotiator.multiselect.handlers))
    negotiator.multiselect_client = BoundedMultiselectClient()
