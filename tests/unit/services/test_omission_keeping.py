"""An epoch's omissions from end to end: a payer without weight, a member's bundle, and what a restart leaves."""

from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from structlog.testing import capture_logs

from node.ports import Call, CallFailedError
from node.protocol.audit_votes import check_audits
from node.protocol.identifiers import EpochNumber, PeerId
from node.protocol.omissions import OMISSIONS_MAX, is_omitted, proven_omissions
from node.protocol.records import EpochGroup, EpochResult, GroupMember, Omission, SignedReceipt, VoteBundle
from node.services.omission_keeping import OmissionKeeping
from node.services.slicing import Slicer
from node.store.books import Books
from node.store.database import Database
from tests.builders import account, peer
from tests.unit.protocol.test_audit_evidence import PAYER
from tests.unit.services.test_omission_watch import receipt, world

MEMBER = 9


class Net:
    """Peers that serve each other."""

    def __init__(self) -> None:
        self.handlers: dict[tuple[PeerId, str], Callable[[Call], Any]] = {}

    def of(self, caller: PeerId) -> Any:
        @asynccontextmanager
        async def call(whom: PeerId, method: str, payload: bytes, **_how: float):  # type: ignore[no-untyped-def]
            async def receive() -> bytes:
                await trio.lowlevel.checkpoint()
                handler = self.handlers.get((whom, method))
                if handler is None:
                    raise CallFailedError("unreachable", "nobody is there")
                await handler(cast(Any, SimpleNamespace(peer_id=caller, payload=payload)))
                raise trio.EndOfChannel

            yield SimpleNamespace(receive=receive)

        def serve(method: str, handler: Callable[[Call], Any], *, concurrency: int) -> None:
            self.handlers[caller, method] = handler

        return SimpleNamespace(call=call, serve=serve)


class Node:
    """Whoever keeps omissions; `signed` are its receipts."""

    def __init__(self, net: Net, number: int, signed: list[SignedReceipt], listed: list[SignedReceipt]) -> None:
        self.watch, self.result = world(signed or [receipt(99)], listed)
        if not signed:
            self.watch._store = cast(Any, SimpleNamespace(receipts_got=lambda **_which: ((), 0)))
        self.store, self.number, self.net = Books(Database(":memory:"), account(number)), number, net
        self.keeping = self.start()

    def start(self) -> OmissionKeeping:
        """Begin anew with what is on the disk."""
        chain = SimpleNamespace(account=account(self.number), state=SimpleNamespace(participants={}))
        found = self.keeping = OmissionKeeping(
            cast(Any, chain), self.net.of(peer(self.number)), self.watch._content, self.store, self.watch._presence,
            Slicer(), bytes,
        )  # fmt: skip
        self.watch._slicer = Slicer()
        found._watch = self.watch
        return found


def group(epoch: int, *numbers: int) -> EpochGroup:
    return EpochGroup(EpochNumber(epoch), tuple(GroupMember(account(n), peer(n), 10, ()) for n in numbers), ())


def of_group(result: EpochResult, *numbers: int) -> EpochResult:
    return replace(result, group=group(result.epoch + 1, *numbers))


def bundle(result: EpochResult, keeping: OmissionKeeping, number: int) -> VoteBundle:
    epoch = EpochNumber(result.epoch + 1)
    made = VoteBundle(epoch, account(number), (), omissions=keeping.for_bundle(epoch))
    check_audits(made)
    return made


async def test_what_a_payer_without_weight_proves_is_in_members_bundles_and_counts(autojump_clock: object) -> None:
    net, signed = Net(), [receipt(number) for number in range(4)]
    members = [Node(net, number, [], []) for number in (7, 8, MEMBER)]
    payer = Node(net, 1, signed, signed[2:])
    assert account(1) == PAYER
    result = of_group(payer.result, 7, 8, MEMBER)
    epoch = EpochNumber(result.epoch + 1)
    async with trio.open_nursery() as nursery:
        for member in members:
            nursery.start_soon(member.keeping.run, epoch, replace(result, books=result.books))
        nursery.start_soon(payer.keeping.run, epoch, result)
    bundles = {account(member.number): bundle(result, member.keeping, member.number) for member in (*members, payer)}
    assert all(len(made.omissions) == 2 for made in bundles.values())
    bundles.pop(account(1))  # which nobody counts
    proven = proven_omissions(result, bundles)
    assert {one.receipt.request_id for one in proven.values()} == {one.receipt.request_id for one in signed[:2]}
    assert {len(known.told) for known in payer.keeping.of(epoch).own} == {3}


async def test_a_member_votes_on_its_own_and_hands_them_to_others_too(autojump_clock: object) -> None:
    net, signed = Net(), [receipt(number) for number in range(3)]
    other, node = Node(net, MEMBER, [], []), Node(net, 1, signed, signed[2:])
    result = of_group(node.result, 1, MEMBER)
    async with trio.open_nursery() as nursery:
        for one in (other, node):
            nursery.start_soon(one.keeping.run, EpochNumber(result.epoch + 1), result)
    assert len(bundle(result, node.keeping, 1).omissions) == 2
    assert bundle(result, other.keeping, MEMBER).omissions == bundle(result, node.keeping, 1).omissions


async def test_a_member_without_weight_hands_its_proofs_to_those_with_it(autojump_clock: object) -> None:
    net, signed = Net(), [receipt(number) for number in range(3)]
    other, node = Node(net, MEMBER, [], []), Node(net, 1, signed, signed[2:])
    made = group(node.result.epoch + 1, 1, MEMBER)
    weightless = replace(made, members=(replace(made.members[0], weight=0), made.members[1]))
    result = replace(node.result, group=weightless)
    epoch = EpochNumber(result.epoch + 1)
    await other.keeping.run(epoch, result)
    await node.keeping.run(epoch, result)
    assert len(bundle(result, other.keeping, MEMBER).omissions) == 2


async def test_the_operator_is_warned_before_anybody_takes_a_proof(autojump_clock: object) -> None:
    """Handing over may take until the bundles are made, and is cut off then."""
    signed = [receipt(number) for number in range(4)]
    node = Node(Net(), 1, signed, signed[2:])
    result = of_group(node.result, MEMBER)  # which is away
    with capture_logs() as logs, trio.move_on_after(3600) as limit:
        await node.keeping.run(EpochNumber(result.epoch + 1), result)
    assert limit.cancelled_caught
    (warning,) = [line for line in logs if "did not book receipts" in line["event"]]
    assert (warning["receipts"], warning["executors"]) == (2, 1)


async def test_a_restart_in_the_middle_loses_nothing_that_was_found_or_taken(autojump_clock: object) -> None:
    net, signed = Net(), [receipt(number) for number in range(OMISSIONS_MAX)]
    member, payer = Node(net, MEMBER, [], []), Node(net, 1, signed, [])
    result = of_group(payer.result, MEMBER)
    epoch = EpochNumber(result.epoch + 1)
    await member.keeping.run(epoch, result)
    keep = payer.keeping.of(epoch)

    def keep_five(omission: Omission) -> None:
        keep.add_own(omission)
        if len(keep.own) == 5:
            raise KeyError("killed")

    with pytest.raises(KeyError):
        await payer.watch.find(result, (), keep_five)
    assert len(payer.start().of(epoch).own) == 5
    kept = {known.omission for known in payer.keeping.of(epoch).own}
    await payer.keeping.run(epoch, result)
    again = payer.keeping.of(epoch)
    assert kept < {known.omission for known in again.own}
    assert len(again.own) == OMISSIONS_MAX
    # The member restarts too.
    made = bundle(result, member.start(), MEMBER)
    assert len(made.omissions) == OMISSIONS_MAX
    assert all(is_omitted(omission, result) for omission in made.omissions)


async def test_what_was_handed_over_for_an_older_bundle_is_forgotten(autojump_clock: object) -> None:
    net, signed = Net(), [receipt(number) for number in range(2)]
    member, payer = Node(net, MEMBER, [], []), Node(net, 1, signed, [])
    result = of_group(payer.result, MEMBER)
    epoch = EpochNumber(result.epoch + 1)
    await member.keeping.run(epoch, result)
    await payer.keeping.run(epoch, result)
    assert len(member.store.document_keys("omissions/")) == 2
    await member.keeping.run(EpochNumber(epoch + 1), result)
    assert member.store.document_keys("omissions/") == ()
