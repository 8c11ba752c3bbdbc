"""js-libp2p's GossipSub and ours exchange messages: all of them, both ways."""

import itertools
import time

import pytest
import trio

from p2p.gossip import Gossip, Verdict, open_gossip
from p2p.host import open_host
from p2p.identity import Identity
from p2p.standing import Standing
from tests.integration.interop.peers import LOOPBACK, SECONDS_MAX, Lines, script

pytestmark = pytest.mark.interop

TOPIC = "/quern/1/test/interop"
MESSAGES = 20
PROBE = "are you there?"


async def probe(gossip: Gossip) -> None:
    for number in itertools.count():
        await gossip.publish(TOPIC, f"{PROBE} {number}".encode(), urgent=True)
        await trio.sleep(0.2)


async def test_js_gossipsub_and_ours_hear_every_message_of_each_other() -> None:
    received: list[str] = []
    all_received = trio.Event()

    def judge(_forwarder: str, data: bytes) -> Verdict:
        text = data.decode()
        if text.startswith("theirs"):
            received.append(text)
            if len(received) == MESSAGES:
                all_received.set()
        return Verdict.ACCEPT

    async with (
        open_host(Identity(b"\1" * 32), [LOOPBACK], []) as host,
        open_gossip(host, standing=Standing(time.time)) as gossip,
        gossip.join(TOPIC, judge),
        script("gossip.mjs", str(host.get_addrs()[0]), TOPIC, str(MESSAGES)) as peer,
    ):
        with trio.fail_after(SECONDS_MAX):
            lines = Lines(peer)
            assert await lines.next() == {"joined": True}
            async with trio.open_nursery() as nursery:
                nursery.start_soon(probe, gossip)  # its mesh may hold us before ours holds it
                assert (await lines.next())["received"].startswith(PROBE)
                nursery.cancel_scope.cancel()
            for number in range(MESSAGES):
                await gossip.publish(TOPIC, f"ours {number}".encode(), urgent=number % 2 == 0)
            heard: list[str] = []
            while len(heard) < MESSAGES:
                text = (await lines.next())["received"]
                if not text.startswith(PROBE):
                    heard.append(text)
            assert sorted(heard) == sorted(f"ours {number}" for number in range(MESSAGES))
            assert peer.stdin is not None
            await peer.stdin.send_all(b"go\n")
            await all_received.wait()
    assert sorted(received) == sorted(f"theirs {number}" for number in range(MESSAGES))
