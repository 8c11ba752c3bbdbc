"""A connection once the Noise handshake is done: seals what is written, opens what comes, and does little else.

*Purpose.* libp2p 0.8.1 reads a message in two calls through six layers, takes three locks to write one, and each lock
is a turn of the scheduler: for a message of a few tokens that costs several times what the cipher does. Handshake, keys
and wire are the library's; here are the two ciphers that it leaves behind, and one buffer in each direction.

*Detail.* Messages of up to 65,535 bytes, each after two bytes with its length. Everything that has come is opened at
once, and what is too large for one message leaves with a single write. A message that cannot be opened, or that has
nothing in it, ends the connection: no honest peer sends one.
"""

from typing import Any

import trio
from libp2p.connection_types import ConnectionType
from libp2p.io.exceptions import ConnectionClosedError, IncompleteReadError
from libp2p.security.base_session import BaseSession
from libp2p.security.secure_session import SecureSession
from multiaddr import Multiaddr

from p2p.repairs.tcp import BufferedTcpStream

LENGTH_BYTES = 2
MAC_BYTES = 16
PLAINTEXT_BYTES_MAX = 65535 - MAC_BYTES
READ_BYTES = 64 * 1024
"""Asked of the socket at once. What is kept of messages that are not complete is less than two of them."""
NONCE_PADDING = bytes(4)


class NoiseSession(BaseSession):
    """Takes over a session of the library's that has carried nothing yet."""

    def __init__(self, session: SecureSession) -> None:
        super().__init__(
            local_peer=session.local_peer,
            local_private_key=session.local_private_key,
            remote_peer=session.remote_peer,
            remote_permanent_pubkey=session.remote_permanent_pubkey,
            is_initiator=session.is_initiator,
        )
        transport: Any = session.conn  # untyped from here on: the library exports no type for what it keeps
        ciphers = transport.noise_state.noise_protocol
        self._transport = transport
        self._raw = transport.read_writer.read_write_closer
        self._socket = getattr(self._raw, "stream", None)
        if not isinstance(self._socket, BufferedTcpStream):
            self._socket = None  # a relay's connection, or one in memory
        self._sealer, self._seal_nonce = ciphers.cipher_state_encrypt.cipher.cipher, ciphers.cipher_state_encrypt.n
        self._opener, self._open_nonce = ciphers.cipher_state_decrypt.cipher.cipher, ciphers.cipher_state_decrypt.n
        self._sealed = bytearray()
        self._opened = bytearray()
        self._writing = trio.Lock()
        self._is_begun = False
        """Whether `begin_write` left a rest that `end_write` has not sent in full."""

    async def write(self, data: bytes) -> None:
        """Send `data`. A checkpoint only where it has to wait. Never between `begin_write` and `end_write`."""
        if self._writing.locked():
            await self._writing.acquire()
        else:
            self._writing.acquire_nowait()
        try:
            self._refuse_to_mix()
            await self._raw.write(self._seal(data))
        finally:
            self._writing.release()

    def begin_write(self, data: bytes) -> bytes:
        """Send as much of `data` as can leave without waiting; return what `end_write` has to be given next.

        For one task at a time, which must not be cancelled in between, and never beside `write`: half a message would
        be sent with another in it. Raises RuntimeError if it were; nothing is sent then.
        """
        if self._writing.locked():
            raise RuntimeError("a write begins beside another: their bytes would mix")
        self._refuse_to_mix()
        sealed = self._seal(data)
        rest = sealed if self._socket is None else sealed[self._socket.write_at_once(sealed) :]
        self._is_begun = bool(rest)
        return rest

    async def end_write(self, rest: bytes) -> None:
        """Send the rest of what `begin_write` began. If that is cancelled, nothing more can be written."""
        async with self._writing:
            await self._raw.write(rest)
            self._is_begun = False

    async def read(self, n: int | None = None) -> bytes:
        """Return `n` bytes, or without `n` all that has come, at least one.

        Raises IncompleteReadError if the peer has hung up, another error if it sent what cannot be opened.
        """
        while len(self._opened) < (1 if n is None else n):
            await self._receive()
        if n is None or n == len(self._opened):
            data = bytes(self._opened)
            self._opened.clear()
            return data
        data = bytes(self._opened[:n])
        del self._opened[:n]
        return data

    async def close(self) -> None:
        """End the connection."""
        await self._transport.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        """The peer's address, if it is known."""
        address: tuple[str, int] | None = self._transport.get_remote_address()
        return address

    def get_transport_addresses(self) -> list[Multiaddr]:
        """Addresses of the layer below."""
        addresses: list[Multiaddr] = self._transport.get_transport_addresses()
        return addresses

    def get_connection_type(self) -> ConnectionType:
        """Direct or relayed."""
        kind: ConnectionType = self._transport.get_connection_type()
        return kind

    def _refuse_to_mix(self) -> None:
        if self._is_begun:
            raise RuntimeError("a write that was begun has not been ended: what follows could not be read")

    def _seal(self, data: bytes) -> bytes:
        parts = []
        for start in range(0, len(data), PLAINTEXT_BYTES_MAX):
            plain = data if len(data) <= PLAINTEXT_BYTES_MAX else data[start : start + PLAINTEXT_BYTES_MAX]
            sealed = self._sealer.encrypt(_nonce(self._seal_nonce), plain, None)
            self._seal_nonce += 1
            parts += [len(sealed).to_bytes(LENGTH_BYTES), sealed]
        return b"".join(parts)

    async def _receive(self) -> None:
        """Wait for bytes and open every message that is complete with them."""
        data = await (self._socket or self._raw).read(READ_BYTES)
        if not data:
            raise IncompleteReadError("the peer has hung up")
        self._sealed += data
        start = 0
        while (begin := start + LENGTH_BYTES) <= len(self._sealed):
            end = begin + int.from_bytes(self._sealed[start:begin])
            if end > len(self._sealed):
                break
            plain = self._opener.decrypt(_nonce(self._open_nonce), self._sealed[begin:end], None)
            if not plain:
                raise ConnectionClosedError("the peer has sent an empty message")
            self._open_nonce += 1
            self._opened += plain
            start = end
        del self._sealed[:start]


def _nonce(number: int) -> bytes:
    return NONCE_PADDING + number.to_bytes(8, "little")
