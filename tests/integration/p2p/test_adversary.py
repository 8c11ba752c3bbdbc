"""One host under 200 attackers keeps serving an honest peer, holds a bounded amount, and names who did what.

ADVERSARY_SECONDS sets how long (120 unless told). Nothing here asserts how fast anything is.
"""

import logging
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio

from node.network.adapter import LibP2PNetwork
from node.operations.peers import DaemonPeerOperations
from node.ports import Call, CallFailedError, Validity
from node.protocol.identifiers import PeerId
from node.protocol.messages import Topic
from p2p.doorkeeper import ADDRESSES_MAX, CONNECTIONS_INBOUND_MAX
from p2p.standing import BANS_MAX, PEERS_MAX, Ban, Offence, Standing
from tests.integration.p2p.adversary import OFFENSIVE
from tests.integration.p2p.nodes import open_node

SECONDS = float(os.environ.get("ADVERSARY_SECONDS", "120"))
PROCESSES = 2
CONNECTIONS = 200
WARM_UP_SECONDS = min(20.0, SECONDS / 4)
RSS_GROWTH_BYTES_MAX = 100 * 1024 * 1024
"""After warming up. 200 connections, tables that fill to their bounds, and what the allocator keeps."""
CALL_SECONDS_MAX = 60.0
ECHO_BYTES = 20_000


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def echo(call: Call) -> None:
    await call.send(await call.receive())


async def hold(call: Call) -> None:
    await trio.sleep_forever()


async def pour(call: Call) -> None:
    while True:
        await call.send(bytes(100_000))


class Honest:
    """A peer that asks all the time, and counts."""

    def __init__(self, network: LibP2PNetwork, victim: PeerId) -> None:
        self.answered = 0
        self.failures: list[str] = []
        self._network = network
        self._victim = victim

    async def ask(self) -> None:
        while True:
            question = os.urandom(ECHO_BYTES)
            try:
                async with self._network.call(self._victim, "echo", b"", deadline_seconds=CALL_SECONDS_MAX) as call:
                    await call.send(question)
                    assert await call.receive() == question
                self.answered += 1
            except CallFailedError as error:
                self.failures.append(str(error))
            await trio.sleep(0.3)


@pytest.mark.timeout(4 * SECONDS + 240)
async def test_two_hundred_attackers_do_not_keep_a_host_from_serving_and_are_named() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.ERROR)  # of the library; pytest would keep each line, and the host seem to grow by them
    standing = Standing(time.time)
    named: dict[str, Ban] = {}
    blames: Counter[tuple[str, str]] = Counter()
    blame = standing.blame

    def count(peer: str, offence: Offence, detail: str) -> None:
        blames[peer, offence.name.lower()] += 1
        blame(peer, offence, detail)

    standing.blame = count  # type: ignore[method-assign]
    standing.on_ban(lambda ban: named.setdefault(ban.peer, ban))
    try:
        async with open_node(1, standing=standing) as victim, open_node(2) as client:
            victim.serve("echo", echo, concurrency=32)
            victim.serve("hold", hold, concurrency=64)
            victim.serve("pour", pour, concurrency=64)
            await client.connect(victim.addresses[0])
            honest = Honest(client, victim.peer_id)
            seen: list[tuple[str, str]] = []
            async with victim.subscribe(Topic.PRESENCE, lambda _peer, _message: Validity.ACCEPT):
                growth = await _under_attack(victim, honest, seen, lambda: _unnamed(seen, named) == set())

            host: Any = victim._host
            doorkeeper = host.get_network().doorkeeper
            operations = DaemonPeerOperations(standing, victim.peer_id, victim.refused_connections)
            view = await operations.bans()
            kinds = dict(seen)
            summary = {
                "answered": honest.answered,
                "failures": Counter(honest.failures),
                "growth MiB": round(growth / 2**20),
                "let in": Counter(kind for _, kind in seen),
                "blamed": Counter((kinds.get(peer, "nobody"), offence) for peer, offence in blames.elements()),
                "banned": Counter(kinds.get(peer, "address") for peer in named),
                "refused": view.refused_connections,
            }
            sys.stdout.write(f"{summary}\n")

            assert honest.failures == []
            assert honest.answered >= 10
            assert growth < RSS_GROWTH_BYTES_MAX
            assert client.peer_id not in named
            assert _unnamed(seen, named) == set()
            assert {ban.peer for ban in view.bans} <= set(named)
            assert view.bans
            assert len(standing._bans) <= BANS_MAX
            assert len(standing._conduct) <= PEERS_MAX
            assert len(doorkeeper._addresses) <= ADDRESSES_MAX
            assert doorkeeper.connections <= CONNECTIONS_INBOUND_MAX
            with trio.fail_after(60):  # it is over: what attackers held is let go
                while len(victim.peers()) > 1 or host.get_network().upgrader._budget.held_bytes > 0:
                    await trio.sleep(0.1)
    finally:
        structlog.reset_defaults()
        logging.disable(logging.NOTSET)


def _unnamed(seen: list[tuple[str, str]], named: dict[str, Ban]) -> set[str]:
    """Kinds of attack of which nobody is banned yet; attackers without an identity are named by their address."""
    named_kinds = {kind for peer, kind in seen if peer in named}
    if any(peer.startswith("/ip4/") for peer in named):
        named_kinds.add("nobody")
    return (OFFENSIVE | {"nobody"}) - named_kinds


async def _under_attack(
    victim: LibP2PNetwork, honest: Honest, seen: list[tuple[str, str]], is_complete: Callable[[], bool]
) -> int:
    """Attack for SECONDS at least, and until somebody of each kind is named; return by how much this process grew.

    `seen` is told each (peer, kind) that was let in.
    """
    port = victim.addresses[0].split("/tcp/")[1].split("/")[0]

    async def listen(process: trio.Process) -> None:
        assert process.stdout is not None
        rest = b""
        async for data in process.stdout:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                peer, kind = line.decode().split()
                seen.append((peer, kind))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(honest.ask)
        processes: list[trio.Process] = []
        for number in range(PROCESSES):
            arguments = [port, victim.peer_id, str(CONNECTIONS // PROCESSES), str(number)]
            command = [sys.executable, "-m", "tests.integration.p2p.adversary", *arguments]
            run = partial(
                trio.run_process, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            processes.append(await nursery.start(run))
            nursery.start_soon(listen, processes[-1])
        await trio.sleep(WARM_UP_SECONDS)
        before = resident_bytes()
        await trio.sleep(SECONDS - WARM_UP_SECONDS)
        with trio.move_on_after(3 * SECONDS):  # on a loaded machine they come in slowly
            while not is_complete():
                await trio.sleep(0.5)
        growth = resident_bytes() - before
        for process in processes:
            assert process.stdin is not None
            await process.stdin.aclose()
            with trio.fail_after(30):
                assert await process.wait() == 0
        nursery.cancel_scope.cancel()
    return growth
