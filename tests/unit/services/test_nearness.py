"""How near peers are: looked up seldom, and a connection for whoever may be needed soon."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from node.ports import CallFailedError, PeerStatus
from node.services.nearness import LOOK_SECONDS, Nearness
from tests.builders import peer


class CountingNetwork:
    def __init__(self) -> None:
        self.looks = 0
        self.called: list[str] = []

    def peers(self) -> tuple[PeerStatus, ...]:
        self.looks += 1
        return (PeerStatus(peer(1), "/memory/1", 40), PeerStatus(peer(2), "/memory/2", None))

    @asynccontextmanager
    async def call(self, peer_id: str, method: str, payload: bytes, *, deadline_seconds: float) -> AsyncIterator[None]:
        self.called.append(peer_id)
        await trio.lowlevel.checkpoint()
        raise CallFailedError("no-method", method)
        yield


async def test_peers_are_looked_up_every_few_seconds_and_no_more(autojump_clock: object) -> None:
    stand_in: Any = CountingNetwork()
    nearness = Nearness(stand_in)
    for _ in range(100):
        assert nearness.seconds(peer(1)) == 0.04
        assert nearness.seconds(peer(2)) == nearness.seconds(peer(3)) == 0.0
        assert nearness.is_connected(peer(2))
        assert not nearness.is_connected(peer(3))
    assert stand_in.looks == 1
    await trio.sleep(LOOK_SECONDS)
    assert nearness.is_connected(peer(1))
    assert stand_in.looks == 2


async def test_warming_a_connection_never_fails(autojump_clock: object) -> None:
    stand_in: Any = CountingNetwork()
    await Nearness(stand_in).warm(peer(3))
    assert stand_in.called == [peer(3)]
