"""Each fault of libp2p 0.8.1's pubsub that facts/p2p.md lists: that it is there, and that it does not reach us.

The first half of each test tells when the library has mended a fault: then it fails, and our way around it may go.
"""

import threading
import time
from collections import defaultdict
from contextlib import suppress
from typing import Any

import pytest
import trio
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V12, GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub, get_content_addressed_msg_id
from libp2p.tools.anyio_service import background_trio_service

from p2p.gossip import Verdict
from p2p.gossip.batch import encode_batch
from p2p.gossip.pubsub import MAKER_MESSAGES_BURST
from p2p.gossip.router import (
    DEGREE_HIGH,
    HEARTBEAT_SECONDS,
    IDS_PER_RPC_MAX,
    UNWANTED_IDS_MAX,
    WANTED_PER_HEARTBEAT_MAX,
)
from p2p.standing import Offence
from tests.integration.p2p.gossip_peers import (
    TOPIC,
    Attacker,
    Member,
    attacker_of,
    connect,
    member,
    members,
    plain_host,
    stock_pubsub,
)
from tests.waiting import until

GARBAGE = b"\x05\xff\xff\xff\xff\xff"
"""A length, and so many bytes that are no protobuf."""


async def survives(victim: Member, attacker: Attacker) -> None:
    """The victim still hears an honest peer."""
    async with member(50) as honest:
        await connect(honest.host, victim.host)
        await until(lambda: honest.follows(victim) and victim.follows(honest))
        item = b"honest %d" % time.time_ns()
        await honest.gossip.publish(TOPIC, item)
        await until(lambda: item in victim.items)


async def until_it_ends() -> None:
    """Wait for the fault that ends the host, which cancels this; return if it never comes."""
    with trio.move_on_after(60):
        await trio.sleep_forever()


def offences(victim: Member, attacker: Attacker, monkeypatch: pytest.MonkeyPatch) -> list[Offence]:
    """Blames of the attacker from now on."""
    noted: list[Offence] = []
    blame = victim.standing.blame

    def note(peer: str, offence: Offence, detail: str) -> None:
        if peer == str(attacker.host.get_id()):
            noted.append(offence)
        blame(peer, offence, detail)

    monkeypatch.setattr(victim.standing, "blame", note, raising=True)
    return noted


async def test_a_malformed_rpc_ends_the_librarys_host_but_only_a_stream_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    died = False
    try:
        async with plain_host(1) as host, stock_pubsub(host), attacker_of(host) as attacker:
            await attacker.write(GARBAGE)
            await until_it_ends()
    except BaseExceptionGroup as group:
        died = group.subgroup(lambda error: "DecodeError" in type(error).__name__) is not None
    assert died

    async with member(1, guarded=False) as victim, attacker_of(victim.host) as attacker:
        noted = offences(victim, attacker, monkeypatch)
        await attacker.write(GARBAGE)
        await until(lambda: noted == [Offence.MALFORMED])
        await survives(victim, attacker)


def with_a_bad_key(attacker: Attacker) -> rpc_pb2.Message:
    message = attacker.message(b"data", signed=False)
    message.from_id = b"\x12\x20" + bytes(32)  # a hash: the key has to come with the message
    message.key = b"\xff\xff\xff"
    return message


async def test_a_malformed_key_ends_the_librarys_pubsub_but_is_a_forgery_to_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(BaseExceptionGroup):
        async with plain_host(1) as host, stock_pubsub(host) as pubsub, attacker_of(host) as attacker:
            await pubsub.subscribe(TOPIC)
            await attacker.send(rpc_pb2.RPC(publish=[with_a_bad_key(attacker)]))
            await until_it_ends()

    async with member(1, guarded=False) as victim, attacker_of(victim.host) as attacker:
        noted = offences(victim, attacker, monkeypatch)
        await attacker.send(rpc_pb2.RPC(publish=[with_a_bad_key(attacker)]))
        await until(lambda: noted == [Offence.FORGED])
        await survives(victim, attacker)


def broken(*_arguments: Any) -> Any:
    raise ZeroDivisionError("a fault of a validator")


async def test_a_validator_that_raises_ends_the_librarys_pubsub_but_costs_ours_an_item() -> None:
    with pytest.raises(BaseExceptionGroup):
        async with plain_host(1) as host, stock_pubsub(host) as pubsub, attacker_of(host) as attacker:
            await pubsub.subscribe(TOPIC)
            pubsub.set_topic_validator(TOPIC, broken, is_async_validator=False)
            await attacker.send(rpc_pb2.RPC(publish=[attacker.message(b"data")]))
            await until_it_ends()

    async with member(1, guarded=False) as victim, attacker_of(victim.host) as attacker:
        victim.verdict = broken
        await attacker.send(rpc_pb2.RPC(publish=[attacker.batch(b"item")]))
        await until(lambda: victim.gossip.metrics().dropped["failed"] == 1)
        victim.verdict = lambda _item: Verdict.ACCEPT
        await survives(victim, attacker)


async def test_a_message_that_comes_twice_during_an_asynchronous_validation_is_delivered_twice_by_the_library() -> None:
    async with plain_host(1) as host, stock_pubsub(host) as pubsub:
        subscription = await pubsub.subscribe(TOPIC)
        checked = 0

        async def slow(_forwarder: ID, _message: Any) -> bool:
            nonlocal checked
            checked += 1
            await trio.sleep(0.5)
            return True

        pubsub.set_topic_validator(TOPIC, slow, is_async_validator=True)
        async with attacker_of(host) as attacker, attacker_of(host, 98) as other:
            message = attacker.message(b"data")
            await attacker.send(rpc_pb2.RPC(publish=[message]))
            await other.send(rpc_pb2.RPC(publish=[message]))
            with trio.fail_after(10):
                assert (await subscription.get()).data == b"data"
                assert (await subscription.get()).data == b"data"
        assert checked == 2

    async with member(1) as victim, attacker_of(victim.host) as attacker, attacker_of(victim.host, 98) as other:
        message = attacker.batch(b"item")
        await attacker.send(rpc_pb2.RPC(publish=[message]))
        await other.send(rpc_pb2.RPC(publish=[message]))
        await until(lambda: victim.gossip.metrics().duplicates == 1)
        assert victim.items == [b"item"]


async def test_the_library_loses_most_of_a_burst_and_ours_nothing() -> None:
    count = 200
    async with plain_host(1) as one, plain_host(2) as other, stock_pubsub(one) as sender, stock_pubsub(other) as taker:
        await connect(one, other)
        subscription: Any = await taker.subscribe(TOPIC)
        await sender.subscribe(TOPIC)
        await sender.wait_for_subscription(other.get_id(), TOPIC, timeout=10)
        await sender.wait_for_mesh(other.get_id(), TOPIC, timeout=10)
        for number in range(count):
            await sender.publish(TOPIC, b"%d" % number)
        received = 0
        with trio.move_on_after(4):
            while True:
                await subscription.get()
                received += 1
        assert received < count / 2

    async with members(2, [(0, 1)]) as (first, second):
        for number in range(count):
            await first.gossip.publish(TOPIC, b"%d" % number)
        await until(lambda: len(second.items) == count)
        for number in range(count, count + MAKER_MESSAGES_BURST // 2):  # and so if each is a message of its own
            first.gossip.pubsub.send_own(TOPIC, encode_batch([b"%d" % number]))
        await until(lambda: len(second.items) == count + MAKER_MESSAGES_BURST // 2)


async def test_the_librarys_heartbeat_is_two_minutes_and_its_spam_guard_drops_ten_messages_a_second() -> None:
    stock = GossipSub([PROTOCOL_ID_V12], degree=6, degree_low=4, degree_high=12)
    message = rpc_pb2.Message(from_id=b"a", data=b"b", seqno=b"c", topicIDs=[TOPIC])
    assert stock.heartbeat_interval == 120
    assert [stock._check_spam_protection(ID(b"p"), message) for _ in range(11)] == [*[True] * 10, False]

    async with members(2, [(0, 1)]) as (first, second):
        router = first.gossip.pubsub.router
        assert router.heartbeat_interval == HEARTBEAT_SECONDS == 1
        assert all(router._check_spam_protection(ID(b"p"), message) for _ in range(100))
        await until(lambda: first.host.get_id() in second.gossip.pubsub.router.mesh[TOPIC])


async def test_the_librarys_sequence_numbers_repeat_after_a_quick_restart_and_ours_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with plain_host(1) as host:
        monkeypatch.setattr("libp2p.pubsub.pubsub.time.time", lambda: 1_700_000_000.5)
        lives = [Pubsub(host, GossipSub([PROTOCOL_ID_V12], 6, 4, 12)) for _ in range(2)]
        monkeypatch.undo()
        assert lives[0]._next_seqno() == lives[1]._next_seqno()
        for life in lives:
            life.seen_messages.stop()
    numbers: list[bytes] = []
    for _ in range(2):
        async with member(1) as ours:
            numbers.append(ours.gossip.pubsub._next_seqno())
    assert numbers[0] < numbers[1]


async def test_with_a_message_id_of_ones_own_the_library_offers_and_remembers_different_ids() -> None:
    """Why the default id stays, and items are told apart by their content above it."""
    message = rpc_pb2.Message(from_id=b"maker", data=b"data", seqno=b"number", topicIDs=[TOPIC])
    async with plain_host(1) as host:
        router = GossipSub([PROTOCOL_ID_V12], 6, 4, 12)
        pubsub = Pubsub(host, router, msg_id_constructor=get_content_addressed_msg_id)
        router.mcache.put(message)
        assert pubsub.get_message_id(message) not in router.mcache.window(TOPIC)
        pubsub.seen_messages.stop()
    async with member(1) as ours:
        ours.gossip.pubsub.router.mcache.put(message)
        assert ours.gossip.pubsub.get_message_id(message) in ours.gossip.pubsub.router.mcache.window(TOPIC)


async def test_the_library_bears_with_a_forger_for_ever_and_ours_bans_it() -> None:
    async with plain_host(1) as host, stock_pubsub(host) as pubsub, attacker_of(host) as attacker:
        await pubsub.subscribe(TOPIC)
        await pubsub.wait_for_peer(attacker.host.get_id(), timeout=10)
        for _ in range(50):
            await attacker.send(rpc_pb2.RPC(publish=[attacker.message(b"data", signed=False)]))
        await trio.sleep(1)
        assert attacker.host.get_id() in host.get_connected_peers()
        assert attacker.host.get_id() in pubsub.peers

    async with member(1) as victim, attacker_of(victim.host) as attacker:
        with suppress(StreamError):  # the victim ends the stream
            for _ in range(50):
                await attacker.send(rpc_pb2.RPC(publish=[attacker.message(b"data", signed=False)]))
        await until(lambda: attacker.host.get_id() not in victim.host.get_connected_peers())
        assert [ban.peer for ban in victim.standing.bans()] == [str(attacker.host.get_id())]
        assert attacker.host.get_id() not in victim.gossip.pubsub.peers
        await survives(victim, attacker)


async def test_the_library_sends_one_peers_grafts_to_the_next_and_ours_to_each_its_own() -> None:
    sent: defaultdict[ID, list[str]] = defaultdict(list)
    one, other = ID(b"one"), ID(b"other")

    async def note(control: rpc_pb2.ControlMessage, peer: ID) -> None:
        sent[peer] += [graft.topicID for graft in control.graft]

    stock = GossipSub([PROTOCOL_ID_V12], 6, 4, 12)
    stock.emit_control_message = note
    await stock._emit_control_msgs({one: ["a"], other: ["b"]}, {}, {})
    assert sent[other] == ["a", "b"]

    sent.clear()
    async with member(1) as ours:
        router = ours.gossip.pubsub.router
        router.send_control = lambda peer, control: sent[peer].extend(graft.topicID for graft in control.graft)
        await router._emit_control_msgs({one: ["a"], other: ["b"]}, {}, {})
    assert sent == {one: ["a"], other: ["b"]}


async def test_the_library_remembers_whatever_topics_a_peer_prunes_and_ours_only_its_own() -> None:
    prunes = rpc_pb2.ControlMessage(prune=[rpc_pb2.ControlPrune(topicID=f"made up {n}") for n in range(5000)])
    async with plain_host(1) as host, stock_pubsub(host) as pubsub:
        router: Any = pubsub.router
        await router.handle_rpc(rpc_pb2.RPC(control=prunes), ID(b"peer"))
        assert len(router.back_off) == 5000
    async with member(1) as ours:
        await ours.gossip.pubsub.router.handle_rpc(rpc_pb2.RPC(control=prunes), ID(b"peer"))
        assert len(ours.gossip.pubsub.router.back_off) == 0


async def test_the_library_asks_for_every_id_a_peer_invents_and_ours_for_a_bounded_number() -> None:
    ids = [b"invented %d" % n for n in range(5000)]
    haves = [rpc_pb2.ControlIHave(topicID=TOPIC, messageIDs=ids[at : at + 1000]) for at in range(0, 5000, 1000)]
    rpc = rpc_pb2.RPC(control=rpc_pb2.ControlMessage(ihave=haves))
    asked = 0

    async def note(control: rpc_pb2.ControlMessage, _peer: ID) -> None:
        nonlocal asked
        asked += sum(len(want.messageIDs) for want in control.iwant)

    async with plain_host(1) as host, stock_pubsub(host) as pubsub:
        await pubsub.subscribe(TOPIC)
        router: Any = pubsub.router
        router.emit_control_message = note
        await router.handle_rpc(rpc, ID(b"peer"))
    assert asked == 5000

    asked = 0

    def count(_peer: ID, control: rpc_pb2.ControlMessage) -> None:
        nonlocal asked
        asked += sum(len(want.messageIDs) for want in control.iwant)

    async with member(1) as ours:
        ours.gossip.pubsub.router.send_control = count
        for _ in range(3):
            ours.gossip.pubsub.router.take_control(rpc.control, ID(b"peer"))
    assert IDS_PER_RPC_MAX <= asked <= WANTED_PER_HEARTBEAT_MAX


async def test_lists_of_what_a_peer_does_not_want_are_bounded() -> None:
    refusal = rpc_pb2.ControlIDontWant(messageIDs=[b"%d" % n for n in range(5000)] + [bytes(100_000)])
    async with member(1) as ours, attacker_of(ours.host) as attacker:
        await until(lambda: attacker.host.get_id() in ours.gossip.pubsub.peers)
        router = ours.gossip.pubsub.router
        router.take_control(rpc_pb2.ControlMessage(idontwant=[refusal, refusal]), attacker.host.get_id())
        unwanted = router.dont_send_message_ids[attacker.host.get_id()]
        assert len(unwanted) == UNWANTED_IDS_MAX
        assert bytes(100_000) not in unwanted


async def test_a_mesh_takes_no_more_peers_than_its_bound() -> None:
    async with member(1) as ours:
        router = ours.gossip.pubsub.router
        graft = rpc_pb2.ControlMessage(graft=[rpc_pb2.ControlGraft(topicID=TOPIC)])
        for number in range(3 * DEGREE_HIGH):
            peer = ID(b"peer %d" % number)
            router.add_peer(peer, PROTOCOL_ID_V12)
            router.take_control(graft, peer)
        assert len(router.mesh[TOPIC]) == DEGREE_HIGH


async def test_the_library_runs_a_task_for_each_message_of_an_rpc_and_ours_none() -> None:
    count = 300
    waiting = 0

    class Slow(Pubsub):
        async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
            nonlocal waiting
            waiting += 1
            await trio.sleep_forever()

    async with plain_host(1) as host, stock_pubsub(host, Slow) as pubsub, attacker_of(host) as attacker:
        await pubsub.subscribe(TOPIC)
        await attacker.send(rpc_pb2.RPC(publish=[attacker.message(b"%d" % n, signed=False) for n in range(count)]))
        await until(lambda: waiting == count)

    async with member(1) as victim, attacker_of(victim.host) as attacker:
        await until(lambda: attacker.host.get_id() in victim.gossip.pubsub.peers)
        tasks = trio.lowlevel.current_statistics().tasks_living
        most = tasks
        judged = victim.verdict

        def count_tasks(item: bytes) -> Verdict:
            nonlocal most
            most = max(most, trio.lowlevel.current_statistics().tasks_living)
            return judged(item)

        victim.verdict = count_tasks
        await attacker.send(rpc_pb2.RPC(publish=[attacker.batch(b"%d" % n) for n in range(100)]))
        await until(lambda: len(victim.items) == 100)
        assert most <= tasks + 10


async def test_the_library_leaves_a_thread_for_each_pubsub_and_ours_none() -> None:
    def sweepers() -> int:
        return sum("_background_cleanup" in thread.name for thread in threading.enumerate())

    before = sweepers()
    async with plain_host(1) as host:
        pubsub = Pubsub(host, GossipSub([PROTOCOL_ID_V12], 6, 4, 12))
        async with background_trio_service(pubsub):
            pass
    assert sweepers() == before + 1
    pubsub.seen_messages.stop()
    async with member(1):
        assert sweepers() == before
    assert sweepers() == before
