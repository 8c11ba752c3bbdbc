"""A secured connection carries what it should, and ends at what no honest peer sends."""

from typing import Any

import pytest
import trio
import trio.testing
from cryptography.exceptions import InvalidTag
from libp2p.crypto.x25519 import create_new_key_pair
from libp2p.io.exceptions import IncompleteReadError
from libp2p.peer.id import ID
from libp2p.security.noise.transport import Transport

from p2p.identity import Identity
from p2p.noise_session import LENGTH_BYTES, MAC_BYTES, PLAINTEXT_BYTES_MAX, NoiseSession

DIALLER, LISTENER = Identity(bytes([1] * 32)), Identity(bytes([2] * 32))


class Wire:
    """A raw connection in memory, which remembers what was written and how often."""

    def __init__(self, stream: Any, *, is_initiator: bool, read_bytes_max: int = 1 << 20) -> None:
        self._stream = stream
        self.is_initiator = is_initiator
        self.written: list[bytes] = []
        self.read_bytes_max = read_bytes_max

    async def read(self, n: int | None = None) -> bytes:
        wanted = self.read_bytes_max if n is None else min(n, self.read_bytes_max)
        return bytes(await self._stream.receive_some(wanted))

    async def write(self, data: bytes) -> None:
        self.written.append(data)
        await self._stream.send_all(data)

    async def close(self) -> None:
        await self._stream.aclose()


async def shake_hands() -> tuple[Any, Any, Wire, Wire]:
    """Return two sessions of the library's and their wires, the dialler's first."""
    near, far = trio.testing.memory_stream_pair()
    wires = Wire(near, is_initiator=True), Wire(far, is_initiator=False)
    secured: dict[bool, Any] = {}

    async def secure(identity: Identity, wire: Wire, peer: Any) -> None:
        transport = Transport(identity.key_pair, noise_privkey=create_new_key_pair().private_key)
        connection: Any = wire
        if wire.is_initiator:
            secured[True] = await transport.secure_outbound(connection, peer)
        else:
            secured[False] = await transport.secure_inbound(connection)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(secure, DIALLER, wires[0], peer_id_of(LISTENER))
        nursery.start_soon(secure, LISTENER, wires[1], None)
    for wire in wires:
        wire.written.clear()
    return secured[True], secured[False], *wires


def peer_id_of(identity: Identity) -> Any:
    return ID.from_pubkey(identity.key_pair.public_key)


async def test_it_understands_the_library_s_sessions_and_is_understood() -> None:
    stock, other, _, _ = await shake_hands()
    session = NoiseSession(other)
    assert session.get_remote_peer() == peer_id_of(DIALLER)
    for number in range(3):
        await stock.write(b"to it %d" % number)
        assert await session.read() == b"to it %d" % number
        await session.write(b"from it %d" % number)
        assert await stock.read() == b"from it %d" % number


@pytest.mark.parametrize("size", [1, PLAINTEXT_BYTES_MAX, PLAINTEXT_BYTES_MAX + 1, 3 * PLAINTEXT_BYTES_MAX + 7])
@pytest.mark.parametrize("read_bytes", [1 << 20, 1000])
async def test_what_is_written_is_read_however_large_and_however_it_is_cut(size: int, read_bytes: int) -> None:
    one, other, wire, far = await shake_hands()
    sender, receiver = NoiseSession(one), NoiseSession(other)
    far.read_bytes_max = read_bytes
    data = bytes(index % 251 for index in range(size))
    await sender.write(data)
    assert len(wire.written) == 1  # in one go
    assert await receiver.read(size) == data


async def test_reading_a_number_of_bytes_leaves_the_rest_for_later() -> None:
    one, other, _, _ = await shake_hands()
    sender, receiver = NoiseSession(one), NoiseSession(other)
    await sender.write(b"abc")
    await sender.write(b"defg")
    assert await receiver.read(2) == b"ab"
    assert await receiver.read(3) == b"cde"
    assert await receiver.read() == b"fg"


async def test_writers_side_by_side_are_sealed_in_the_order_in_which_they_leave() -> None:
    one, other, _, _ = await shake_hands()
    sender, receiver = NoiseSession(one), NoiseSession(other)
    async with trio.open_nursery() as nursery:
        for letter in b"abcdefgh":
            nursery.start_soon(sender.write, bytes([letter]) * 100)
    assert sorted((await receiver.read(800))[::100]) == sorted(b"abcdefgh")


@pytest.mark.parametrize(
    "message",
    [
        pytest.param((MAC_BYTES + 4).to_bytes(LENGTH_BYTES) + bytes(MAC_BYTES + 4), id="forged"),
        pytest.param(bytes(LENGTH_BYTES), id="of no length"),
        pytest.param((3).to_bytes(LENGTH_BYTES) + b"abc", id="shorter than its seal"),
    ],
)
async def test_a_message_that_cannot_be_opened_is_not_read(message: bytes) -> None:
    one, other, wire, _ = await shake_hands()
    receiver = NoiseSession(other)
    await NoiseSession(one).write(b"good")
    assert await receiver.read() == b"good"
    await wire.write(message)
    with pytest.raises(InvalidTag):  # which the connection above takes for its end
        await receiver.read()


async def test_an_empty_message_ends_the_connection() -> None:
    stock, other, _, _ = await shake_hands()
    await stock.conn.write_msg(b"")
    with pytest.raises(Exception, match="empty message"):
        await NoiseSession(other).read()


async def test_a_message_sent_twice_is_not_read_twice() -> None:
    one, other, wire, _ = await shake_hands()
    receiver = NoiseSession(other)
    await NoiseSession(one).write(b"pay once")
    assert await receiver.read() == b"pay once"
    await wire.write(wire.written[0])
    with pytest.raises(InvalidTag):
        await receiver.read()


async def test_a_peer_that_hangs_up_in_the_middle_of_a_message_is_noticed() -> None:
    one, other, wire, _ = await shake_hands()
    await wire.write((100).to_bytes(LENGTH_BYTES) + b"half")
    await one.close()
    with pytest.raises(IncompleteReadError):
        await NoiseSession(other).read()
