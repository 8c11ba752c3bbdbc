"""Attackers in a process of their own: `python -m tests.integration.p2p.adversary PORT PEER CONNECTIONS SEED`.

Each keeps one connection to the victim under way, does its worst on it, and comes again, with a new identity and from a
new address of 127/8 now and then, as from a net of hired machines. Each time it is let in it says who it is and what it
does, on a line of standard output: `PEER KIND`. It ends when standard input does.
"""

import logging
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import structlog
import trio
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.utils import encode_delim, encode_uvarint, encode_varint_prefixed
from multiaddr import Multiaddr

from p2p.frames import BODY_BYTES_MAX, Frame, Kind, Opening, encode_frame, open_body
from p2p.identity import Identity
from p2p.repairs.tcp import HardenedTcp
from p2p.repairs.upgrader import PinnedUpgrader
from p2p.standing import Standing
from p2p.streams import PROTOCOL as REQUESTS
from p2p.yamux.budget import Budget
from p2p.yamux.wire import Flag, Type, encode_header

MULTISTREAM = encode_delim(b"/multistream/1.0.0")
TOPIC = "/quern/1/test/presence"
GOSSIP = TProtocol("/meshsub/1.1.0")
PATIENCE = 3
"""Times that an identity is turned away before it is changed for a new one."""
RAW_PATIENCE = 30
"""Rounds from one address of those that have no identity."""
STALL_SECONDS = 20.0
ATTACK_SECONDS = 8.0
BREATH_SECONDS = 0.05
"""Between two bursts of a flood: attackers share the processing power of their process, and of the victim."""
PAUSE_SECONDS = (0.1, 1.0)
Raw = Callable[[trio.SocketStream], Awaitable[None]]
Known = Callable[[Any], Awaitable[None]]


# --- of those that are nobody ---


async def say_nothing(stream: trio.SocketStream) -> None:
    await trio.sleep(STALL_SECONDS)


async def speak_http(stream: trio.SocketStream) -> None:
    await stream.send_all(b"GET / HTTP/1.1\r\nHost: victim\r\n\r\n")
    await stream.receive_some()


async def send_a_line_without_end(stream: trio.SocketStream) -> None:
    await stream.send_all(MULTISTREAM + encode_uvarint(2**40))
    while True:
        await stream.send_all(bytes(65536))


async def break_the_handshake(stream: trio.SocketStream) -> None:
    await stream.send_all(MULTISTREAM + encode_delim(b"/noise"))
    await stream.send_all((500).to_bytes(2) + random.randbytes(500))
    while await stream.receive_some():
        pass


async def drip(stream: trio.SocketStream) -> None:
    for byte in MULTISTREAM * 5:
        await stream.send_all(bytes([byte]))
        await trio.sleep(0.5)


# --- of those that have an identity: given the multiplexed connection ---


async def put(muxed: Any, data: bytes) -> None:
    """Send bytes as they are, between the frames that the connection sends by itself."""
    await muxed._write(lambda: data)


async def negotiated(muxed: Any, protocol: str) -> Any:
    """A stream of a protocol, without waiting for the answers."""
    stream = await muxed.open_stream()
    await stream.write(MULTISTREAM + encode_delim(protocol.encode()))
    return stream


async def break_yamux(muxed: Any) -> None:
    await put(muxed, b"\x07" + random.randbytes(200))


async def overrun_a_window(muxed: Any) -> None:
    stream = await muxed.open_stream()
    await stream.write(b"\x00")
    while True:
        await put(muxed, encode_header(Type.DATA, 0, stream.stream_id, 60_000) + bytes(60_000))


async def open_streams_without_end(muxed: Any) -> None:
    for number in range(1001, 1_000_000, 400):
        await put(muxed, b"".join(encode_header(Type.WINDOW, Flag.SYN, number + n, 0) for n in range(0, 400, 2)))
        await trio.sleep(BREATH_SECONDS)


async def ping_without_end(muxed: Any) -> None:
    pings = encode_header(Type.PING, Flag.SYN, 0, 1) * 1000
    while True:
        await put(muxed, pings)
        await trio.sleep(BREATH_SECONDS)


async def negotiate_without_end(muxed: Any) -> None:
    while True:
        stream = await muxed.open_stream()
        await stream.write(MULTISTREAM + encode_uvarint(2**60))
        await trio.sleep(BREATH_SECONDS)


async def break_frames(muxed: Any) -> None:
    while True:
        stream = await negotiated(muxed, REQUESTS)
        await stream.write((20).to_bytes(4) + b"\x63" + random.randbytes(19))
        await trio.sleep(0.2)


async def send_without_credit(muxed: Any) -> None:
    stream = await negotiated(muxed, REQUESTS)
    await stream.write(encode_frame(Frame(Kind.OPEN, 1, open_body(Opening("hold", b"")))))
    while True:
        await stream.write(encode_frame(Frame(Kind.DATA, 1, bytes(BODY_BYTES_MAX))))


async def ask_without_end(muxed: Any) -> None:
    stream = await negotiated(muxed, REQUESTS)
    call = 0
    while True:
        call += 1
        await stream.write(encode_frame(Frame(Kind.OPEN, call, open_body(Opening("absent", bytes(1000))))))
        await trio.sleep(0.001)


async def hold_calls_open(muxed: Any) -> None:
    stream = await negotiated(muxed, REQUESTS)
    for call in range(1, 300):
        await stream.write(encode_frame(Frame(Kind.OPEN, call, open_body(Opening("hold", bytes(50_000))))))
    await trio.sleep(STALL_SECONDS)


async def break_gossip(muxed: Any) -> None:
    while True:
        stream = await negotiated(muxed, GOSSIP)
        await stream.write(encode_varint_prefixed(b"\xff" * 40))
        await trio.sleep(0.2)


async def forge_gossip(muxed: Any) -> None:
    stream = await negotiated(muxed, GOSSIP)
    author = Identity(random.randbytes(32)).peer_id
    for number in range(50):
        message = rpc_pb2.Message(
            data=b"lie %d" % number,
            topicIDs=[TOPIC],
            from_id=ID.from_base58(author).to_bytes(),
            seqno=number.to_bytes(8),
            signature=bytes(64),
        )
        await stream.write(encode_varint_prefixed(rpc_pb2.RPC(publish=[message]).SerializeToString()))
    await trio.sleep(1)


async def flood_gossip(muxed: Any) -> None:
    stream = await negotiated(muxed, GOSSIP)
    wanted = [rpc_pb2.ControlIWant(messageIDs=[random.randbytes(40).hex() for _ in range(500)])]
    rpc = rpc_pb2.RPC(control=rpc_pb2.ControlMessage(iwant=wanted)).SerializeToString()
    while True:
        await stream.write(encode_varint_prefixed(rpc))
        await trio.sleep(BREATH_SECONDS)


async def read_nothing(muxed: Any) -> None:
    """The connection stands, and its task is gone: what the victim sends stays where it is."""
    stream = await negotiated(muxed, REQUESTS)
    await stream.write(encode_frame(Frame(Kind.OPEN, 1, open_body(Opening("pour", b"")))))
    await trio.sleep(STALL_SECONDS)


RAW: tuple[Raw, ...] = (say_nothing, speak_http, send_a_line_without_end, break_the_handshake, drip)
KNOWN: tuple[Known, ...] = (
    break_yamux,
    overrun_a_window,
    open_streams_without_end,
    ping_without_end,
    negotiate_without_end,
    break_frames,
    send_without_credit,
    ask_without_end,
    hold_calls_open,
    break_gossip,
    forge_gossip,
    flood_gossip,
    read_nothing,
)
OFFENSIVE = frozenset(
    attack.__name__
    for attack in (
        break_yamux,
        overrun_a_window,
        open_streams_without_end,
        ping_without_end,
        break_frames,
        send_without_credit,
        break_gossip,
        forge_gossip,
    )
)
"""What no honest peer does: whoever does it is to be named. The others are slow, or ask for much."""


class Attackers:
    """All attackers of this process."""

    def __init__(self, port: int, victim: str) -> None:
        self._port = port
        self._victim = ID.from_base58(victim)
        self._tcp = HardenedTcp()

    async def attack(self, number: int) -> None:
        """One of them, until cancelled."""
        attack = (*RAW, *KNOWN)[number % (len(RAW) + len(KNOWN))]
        patience = RAW_PATIENCE if attack in RAW else PATIENCE
        while True:
            # As long as it is let in it stays who it is; then somebody new comes from somewhere else.
            source, identity, turned_away = random_source(), Identity(random.randbytes(32)), 0
            while turned_away < patience:
                let_in = False
                try:
                    with trio.move_on_after(ATTACK_SECONDS if attack in KNOWN else STALL_SECONDS):
                        if attack in RAW:
                            await self._raw(attack, source)
                        else:
                            async with self._entered(source, identity) as muxed:
                                let_in = True
                                say(identity.peer_id, attack.__name__)
                                await attack(muxed)
                except Exception:  # cut off: what an attacker expects
                    await trio.lowlevel.checkpoint()
                turned_away = 0 if let_in else turned_away + 1
                await trio.sleep(random.uniform(*PAUSE_SECONDS))

    async def _raw(self, attack: Raw, source: str) -> None:
        connection: Any = await self._dial(source)
        try:
            await attack(connection.stream.stream)
        finally:
            with trio.CancelScope(shield=True):
                await connection.close()

    @asynccontextmanager
    async def _entered(self, source: str, identity: Identity) -> AsyncIterator[Any]:
        """A multiplexed connection to the victim."""
        upgrader = PinnedUpgrader(identity.key_pair, Standing(trio.current_time), Budget())
        connection: Any = await self._dial(source)
        try:
            with trio.fail_after(10):
                secured = await upgrader.upgrade_security(connection, True, self._victim)
                muxed = await upgrader.upgrade_connection(secured, self._victim)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(muxed.start)
                yield muxed
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(1):
                await connection.close()

    async def _dial(self, source: str) -> Any:
        with trio.fail_after(10):
            return await self._tcp.dial_with_source(Multiaddr(f"/ip4/127.0.0.1/tcp/{self._port}"), (source, 0))


def random_source() -> str:
    """An address of this machine that is not the one honest peers use."""
    return f"127.{random.randrange(1, 255)}.{random.randrange(256)}.{random.randrange(1, 255)}"


def say(*words: str) -> None:
    """Tell the test."""
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


async def main(port: int, victim: str, connections: int) -> None:
    """Attack until standard input ends."""
    attackers = Attackers(port, victim)
    try:
        async with trio.open_nursery() as nursery:
            for number in range(connections):
                nursery.start_soon(attackers.attack, number)
            await trio.to_thread.run_sync(sys.stdin.read)
            nursery.cancel_scope.cancel()
    except* Exception as errors:  # cut off in the moment it was over anyway
        sys.stderr.write(f"{len(errors.exceptions)} attackers were cut off at the end\n")


if __name__ == "__main__":
    random.seed(int(sys.argv[4]))
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    trio.run(main, int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
