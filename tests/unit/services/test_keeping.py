"""Proofs on a disk that has no room: they wait, and are kept for as long as a verdict may rest on them."""

import errno
import os

import pytest
import trio

from netsim.content import ContentExchange, SimulatedContent
from netsim.trace import Trace
from node.protocol.identifiers import Cid, EpochNumber
from node.services.keeping import PROOF_EPOCHS_KEPT, keep_proof, store_proof

EPOCH = EpochNumber(5)


class Refusing(SimulatedContent):
    """Has no room, until there were so many tries."""

    refusals = 0
    number: int | None = errno.ENOSPC

    async def add_bytes(self, data: bytes) -> Cid:
        self._try()
        return await super().add_bytes(data)

    async def keep(self, cid: Cid, until: EpochNumber) -> None:
        self._try()
        await super().keep(cid, until)

    def _try(self) -> None:
        if self.refusals:
            self.refusals -= 1
            raise OSError("full") if self.number is None else OSError(self.number, os.strerror(self.number))


def content_of(refusals: int) -> Refusing:
    content = Refusing(ContentExchange(Trace()), "host", 1)
    content.refusals = refusals
    return content


async def test_a_proof_waits_for_room_and_stays_as_long_as_a_verdict_may_rest_on_it(autojump_clock: object) -> None:
    content = content_of(3)
    cid = await store_proof(content, b"votes", EPOCH, "votes")
    assert content.refusals == 0
    await content.forget(EpochNumber(EPOCH + PROOF_EPOCHS_KEPT), [cid])
    assert content.blocks[cid] == b"votes"
    await content.forget(EpochNumber(EPOCH + PROOF_EPOCHS_KEPT + 1), [])
    assert cid not in content.blocks


async def test_what_this_node_can_do_without_makes_room_before_anybody_waits(autojump_clock: object) -> None:
    content, begin, made = content_of(1), trio.current_time(), list[int]()

    async def make_room() -> None:
        made.append(content.refusals)

    await store_proof(content, b"votes", EPOCH, "votes", make_room)
    assert (trio.current_time() - begin, made) == (0, [0])
    content.refusals = 3
    await store_proof(content, b"others", EPOCH, "votes", make_room)
    assert made == [0, 2]
    await store_proof(content, b"more", EPOCH, "votes", make_room)
    assert made == [0, 2]


@pytest.mark.parametrize("number", [None, errno.EIO])
async def test_what_may_be_needed_after_a_restart_stays_where_the_disk_would_gain_nothing_by_it(
    autojump_clock: object, number: int | None
) -> None:
    content, made = content_of(2), list[int]()
    content.number = number

    async def make_room() -> None:
        made.append(content.refusals)

    await store_proof(content, b"votes", EPOCH, "votes", make_room)
    assert (content.refusals, made) == (0, [])


async def test_who_can_be_too_late_stops_waiting(autojump_clock: object) -> None:
    content = content_of(10**9)
    with trio.move_on_after(60) as scope:
        await store_proof(content, b"votes", EPOCH, "votes")
    assert scope.cancelled_caught
    assert content.blocks == {}


async def test_a_proof_of_others_that_cannot_be_kept_stops_nothing() -> None:
    content = content_of(0)
    cid = await content.add_bytes(b"votes")
    content.refusals = 1
    await keep_proof(content, cid, EPOCH)
    await content.forget(EpochNumber(99), [])
    assert cid in content.blocks
