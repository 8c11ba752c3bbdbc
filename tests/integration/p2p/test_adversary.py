"""One host under 200 attackers keeps serving an honest peer, holds a bounded amount, and names who did what.

ADVERSARY_SECONDS sets how long (120 unless told). Nothing here asserts how fast anything is.
"""

import json
import logging
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio
from coincurve import PrivateKey

from node.network.adapter import LibP2PNetwork, open_network
from node.peer_operations import DaemonPeerOperations
from node.ports import Call, CallFailedError, Validity
from node.protocol.identifiers import PeerId
from node.protocol.messages import Topic
from node.protocol.signatures import address_of, sign
from p2p.doorkeeper import ADDRESSES_MAX, CONNECTIONS_INBOUND_MAX
from p2p.standing import BANS_MAX, PEERS_MAX, Ban, Standing
from tests.integration.p2p.adversary import OFFENSIVE

SECONDS = float(os.environ.get("ADVERSARY_SECONDS", "120"))
PROCESSES = 2
CONNECTIONS = 200
WARM_UP_SECONDS = min(20.0, SECONDS / 4)
RSS_GROWTH_BYTES_MAX = 200 * 1024 * 1024
"""After warming up. 200 connections, tables that fill to their bounds, and what the allocator keeps."""
CALL_SECONDS_MAX = 60.0
ECHO_BYTES = 20_000


def open_node(number: int, standing: Standing) -> Any:
    key = PrivateKey(number.to_bytes(32))
    return open_network(
        seed=bytes([number]) * 32,
        listen=["/ip4/127.0.0.1/tcp/0"],
        announce=[],
        bootstrap=(),
        network_id="test",
        account=address_of(key.public_key),
        sign=lambda digest: sign(key, digest),
        wall_clock=lambda: int(time.time()),
        standing=standing,
    )


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


@pytest.mark.timeout(SECONDS + 240)
async def test_two_hundred_attackers_do_not_keep_a_host_from_serving_and_are_named() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    standing = Standing(time.time)
    named: dict[str, Ban] = {}
    standing.on_ban(lambda ban: named.setdefault(ban.peer, ban))
    try:
        async with open_node(1, standing) as victim, open_node(2, Standing(time.time)) as client:
            victim.serve("echo", echo, concurrency=32)
            victim.serve("hold", hold, concurrency=64)
            victim.serve("pour", pour, concurrency=64)
            await client.connect(victim.addresses[0])
            honest = Honest(client, victim.peer_id)
            async with victim.subscribe(Topic.PRESENCE, lambda _peer, _message: Validity.ACCEPT):
                reports, growth = await _under_attack(victim, honest)

            host: Any = victim._host
            doorkeeper = host.get_network().doorkeeper
            operations = DaemonPeerOperations(standing, victim.peer_id, victim.refused_connections)
            view = await operations.bans()
            kinds = Counter(kind for report in reports for kind in report["connected"].elements())
            names = {peer: kind for report in reports for peer, kind in report["identities"].items()}
            summary = {
                "answered": honest.answered,
                "failures": Counter(honest.failures),
                "growth MiB": round(growth / 2**20),
                "bans": Counter(names.get(peer, peer.split("/")[1] if "/" in peer else "other") for peer in named),
                "refused": view.refused_connections,
                "connected": dict(kinds),
            }
            sys.stdout.write(f"{summary}\n")

            assert honest.failures == []
            assert honest.answered >= 10
            assert growth < RSS_GROWTH_BYTES_MAX
            assert client.peer_id not in named
            banned_kinds = {names[peer] for peer in named if peer in names}
            assert {kind for kind in OFFENSIVE if kinds[kind] > 0} <= banned_kinds
            assert any(peer.startswith("/ip4/") for peer in named)
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


async def _under_attack(victim: LibP2PNetwork, honest: Honest) -> tuple[list[dict[str, Any]], int]:
    """Return what the attackers report, and by how much this process grew."""
    port = victim.addresses[0].split("/tcp/")[1].split("/")[0]
    reports: list[dict[str, Any]] = []

    async def attack(number: int) -> None:
        arguments = [port, victim.peer_id, str(SECONDS), str(CONNECTIONS // PROCESSES), str(number)]
        done = await trio.run_process(
            [sys.executable, "-m", "tests.integration.p2p.adversary", *arguments],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()[-3000:]
        report = json.loads(done.stdout.splitlines()[-1])
        report["connected"] = Counter(report["connected"])
        reports.append(report)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(honest.ask)
        async with trio.open_nursery() as attackers:
            for number in range(PROCESSES):
                attackers.start_soon(attack, number)
            await trio.sleep(WARM_UP_SECONDS)
            before = resident_bytes()
        growth = resident_bytes() - before
        nursery.cancel_scope.cancel()
    return reports, growth
