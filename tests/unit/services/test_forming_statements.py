"""What a member says with its signature of a result, it says once: in one round nobody hears two things of it."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from netsim.chain import SimulatedChain
from netsim.ledger import Ledger
from netsim.trace import Trace
from node.ports import Validity
from node.protocol.agreement import ROUNDS_MAX, committed_order
from node.protocol.identifiers import Address, EpochNumber, Hash32
from node.protocol.messages import Message, ResultSignature
from node.protocol.slices import Slices
from node.services.forming import FormingService
from node.store.books import Books
from node.store.database import Database
from tests.builders import PARAMETERS, SOME_CID, account, bundle_of, group_set, key_of, registered

EPOCH = EpochNumber(0)
COMMITTED = committed_order({account(number) for number in (1, 2, 3)})
FIRST, SECOND = Hash32(b"\x01" * 32), Hash32(b"\x02" * 32)


class Said:
    """A network that notes what is published, and a router that brings nothing."""

    def __init__(self) -> None:
        self.published: list[ResultSignature] = []
        self.judges: dict[type, Callable[[Message], Validity]] = {}

    async def publish(self, body: ResultSignature, *, urgent: bool = False) -> None:
        self.published.append(body)

    def register(self, kind: type, judge: Callable[[Message], Validity], _take: object) -> None:
        self.judges[kind] = judge


def started(store: Books, said: Said) -> FormingService:
    """The service of a daemon that was just started; account 2 is registered, and no member."""
    ledger = Ledger(PARAMETERS, 1.0, 1, Trace(), group_set(0, {1: 1}).weights)
    ledger._seal_block([*registered(2)])
    ledger.mine()
    chain = SimulatedChain(ledger, key_of(1), confirmations=1)
    unused: Any = None
    network: Any = said
    return FormingService(chain, network, unused, store, unused, unused, unused, network)


async def sign(service: FormingService, digest: Hash32, held: tuple[int, ...]) -> ResultSignature | None:
    inputs: Any = SimpleNamespace(epoch=EPOCH, committed=COMMITTED)
    return await service._sign(inputs, {account(number) for number in held}, digest, SOME_CID)


async def test_a_member_that_restarts_says_in_a_round_what_it_said_in_it_before() -> None:
    store, said = Books(Database(":memory:"), account(1)), Said()
    first = await sign(started(store, said), FIRST, (1, 2))
    again = await sign(started(store, said), FIRST, (1, 2, 3))  # it holds more by now, and its result is the same
    assert first == again
    assert said.published == [first, first]
    other = await sign(started(store, said), SECOND, (1, 2, 3))
    assert other is not None
    assert (other.round, other.held) == (1, b"\x07")
    assert await sign(started(store, said), FIRST, (1, 2, 3)) == first


async def test_a_member_that_keeps_running_says_one_thing_in_a_round() -> None:
    service = started(Books(Database(":memory:"), account(1)), said := Said())
    assert await sign(service, FIRST, (1, 2)) == await sign(service, FIRST, (1, 2, 3))
    assert len(set(said.published)) == 1


async def test_what_a_member_says_is_on_its_disk_before_anyone_hears_it() -> None:
    events: list[str] = []

    class NotingBooks(Books):
        def save_statement(self, epoch: EpochNumber, member: Address, data: bytes) -> None:
            super().save_statement(epoch, member, data)
            events.append("saved")

        async def durable(self) -> None:
            await super().durable()
            events.append("durable")

    class Noting(Said):
        async def publish(self, body: ResultSignature, *, urgent: bool = False) -> None:
            await super().publish(body, urgent=urgent)
            events.append("published")

    await sign(started(NotingBooks(Database(":memory:"), account(1)), Noting()), FIRST, (1, 2))
    assert events == ["saved", "durable", "published"]


async def test_no_round_is_said_to_be_free_that_is_spent() -> None:
    service = started(Books(Database(":memory:"), account(1)), Said())
    for number in range(ROUNDS_MAX):
        signed = await sign(service, Hash32(bytes([number]) * 32), (1,))
        assert signed is not None
        assert signed.round == number
    assert await sign(service, Hash32(b"\xff" * 32), (1,)) is None


async def test_who_left_a_bundle_out_that_came_while_the_result_was_formed_does_not_say_that_it_held_it() -> None:
    service = started(Books(Database(":memory:"), account(1)), Said())
    fetching: Any = SimpleNamespace(held={account(1): None}, is_complete=True)
    inputs: Any = SimpleNamespace(epoch=EPOCH, committed=COMMITTED)

    async def form(_: object, held: dict[Address, None], counted: frozenset[Address]) -> None:
        fetching.held[account(2)] = None  # between two slices
        assert held.keys() == counted == {account(1)}
        raise StopAsyncIteration

    service._form = form  # type: ignore[method-assign, assignment]
    with pytest.raises(StopAsyncIteration):
        await service._agree(inputs, fetching)


@pytest.mark.parametrize(("held", "is_told"), [((1, 2), True), ((1, 2, 3), False)])
async def test_that_nothing_follows_yet_is_told_otherwise_than_that_nothing_follows(
    held: tuple[int, ...], *, is_told: bool
) -> None:
    """At half of FORM bundles may still come, and with these a result follows."""
    service = started(Books(Database(":memory:"), account(1)), Said())

    def nothing(_: object) -> Slices[None]:
        yield
        return

    inputs: Any = SimpleNamespace(epoch=EPOCH, committed=COMMITTED, state=service._chain.state, form=nothing)
    bundles = {account(number): bundle_of(number) for number in held}
    with capture_logs() as lines:
        assert await service._form(inputs, bundles, frozenset(bundles)) is None
    assert ["unless others come" in line["event"] for line in lines] == [is_told]
