"""What members say they hold: nobody that says one thing to some and another to others is taken at its word."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netsim.chain import SimulatedChain
from netsim.ledger import Ledger
from netsim.trace import Trace
from node.ports import Store, Validity
from node.protocol.agreement import ROUNDS_MAX, pack_holders
from node.protocol.codec import from_bytes, to_bytes
from node.protocol.identifiers import Address, EpochNumber, Hash32
from node.protocol.messages import Message, ResultSignature
from node.protocol.objections import Statements, left_out_without_ground
from node.protocol.signatures import sign
from node.services.result_signatures import STATEMENTS_PER_ROUND_MAX, ResultSignatures
from node.store.books import Books
from node.store.database import Database
from tests.builders import PARAMETERS, SOME_CID, account, group_set, key_of

EPOCH = EpochNumber(0)
DIGEST = Hash32(b"\x01" * 32)
MEMBERS = tuple(range(1, 10))
COMMITTED = tuple(sorted((account(number) for number in MEMBERS), key=str.lower))
EVERYONE = frozenset(COMMITTED)
VICTIM = account(9)
ALL, WITHOUT = pack_holders(EVERYONE, COMMITTED), pack_holders(EVERYONE - {VICTIM}, COMMITTED)


class StubRouter:
    def register(self, *_: object) -> None:
        pass


def listener() -> ResultSignatures:
    nothing: Any = None
    router: Any = StubRouter()
    return ResultSignatures(nothing, router, lambda: None)


def listener_with(store: Store) -> ResultSignatures:
    nothing: Any = None
    router: Any = StubRouter()
    return ResultSignatures(nothing, router, lambda: None, store)


def statement(number: int, held: bytes, number_of_round: int = 0, *, epoch: EpochNumber = EPOCH) -> ResultSignature:
    return ResultSignature(epoch, DIGEST, sign(key_of(number), DIGEST), number_of_round, held, SOME_CID)


def holders(signatures: ResultSignatures, epoch: EpochNumber = EPOCH) -> Mapping[Address, frozenset[Address]]:
    return signatures.always_held(epoch, COMMITTED, {VICTIM})


def test_a_member_holds_what_it_said_to_hold_in_every_round() -> None:
    signatures = listener()
    signatures.add(account(1), statement(1, ALL))
    signatures.add(account(2), statement(2, WITHOUT))
    signatures.add(account(2), statement(2, ALL, 1))
    assert holders(signatures) == {account(1): {VICTIM}, account(2): frozenset()}
    assert signatures.holdings(EPOCH, COMMITTED)[account(2)] == EVERYONE  # the newest is what a result goes by


@pytest.mark.parametrize("order", [(ALL, WITHOUT), (WITHOUT, ALL)])
def test_who_contradicts_itself_in_a_round_holds_nothing(order: tuple[bytes, bytes]) -> None:
    signatures = listener()
    for held in (*order, ALL):
        signatures.add(account(1), statement(1, held))
    assert holders(signatures) == {}
    signatures.add(account(1), statement(1, ALL, 1))
    assert holders(signatures) == {}  # a later round takes nothing back


@pytest.mark.parametrize("held", [b"", ALL[1:], b"\x00" + ALL, b"\xff" * len(ALL)])
def test_who_says_nothing_that_can_be_understood_holds_nothing(held: bytes) -> None:
    signatures = listener()
    signatures.add(account(1), statement(1, ALL))
    signatures.add(account(1), statement(1, held, 1))
    assert holders(signatures) == {}


def test_who_was_not_heard_in_every_round_holds_nothing() -> None:
    signatures = listener()
    signatures.add(account(1), statement(1, ALL, 1))
    assert holders(signatures) == {}
    signatures.add(account(1), statement(1, ALL))
    assert holders(signatures) == {account(1): {VICTIM}}


def test_statements_of_an_epoch_are_forgotten_with_the_first_of_a_later_one() -> None:
    signatures = listener()
    signatures.add(account(1), statement(1, WITHOUT))
    signatures.add(account(1), statement(1, ALL, epoch=EpochNumber(1)))
    signatures.add(account(1), statement(1, WITHOUT, 1))
    assert holders(signatures) == {}
    assert holders(signatures, EpochNumber(1)) == {account(1): {VICTIM}}


async def test_a_contradiction_goes_on_to_everyone_and_a_third_one_to_nobody() -> None:
    ledger = Ledger(PARAMETERS, 1.0, 1, Trace(), group_set(0, {1: 100, 2: 100}).weights)
    while ledger.height < PARAMETERS.form_offset:
        ledger.mine()
    router: Any = StubRouter()
    signatures = ResultSignatures(SimulatedChain(ledger, key_of(9), confirmations=1), router, lambda: None)

    def say(held: bytes, number_of_round: int = 0) -> Validity:
        message = Message(account(1), 0, statement(1, held, number_of_round))
        validity = signatures.judge(message)
        if validity is Validity.ACCEPT:
            signatures._take(message)
        return validity

    assert [say(ALL), say(WITHOUT), say(b"")] == [Validity.ACCEPT, Validity.ACCEPT, Validity.IGNORE]
    assert [say(ALL), say(WITHOUT), say(ALL, 1)] == [Validity.ACCEPT] * 3  # repeated for those who missed it
    for number_of_round in range(ROUNDS_MAX):
        for place in range(2 * STATEMENTS_PER_ROUND_MAX):
            say(bytes([place]), number_of_round)
    kept = [one for same_round in signatures._known[account(1)].values() for one in same_round]
    assert len(kept) == ROUNDS_MAX * STATEMENTS_PER_ROUND_MAX


@given(
    st.fixed_dictionaries({number: st.integers(1, 10) for number in MEMBERS}),
    st.fixed_dictionaries({number: st.lists(st.sampled_from((ALL, WITHOUT, b"?")), max_size=3) for number in MEMBERS}),
    st.sets(st.sampled_from(MEMBERS)),
    st.data(),
)
def test_no_result_without_votes_that_a_third_lacked_looks_groundless_to_who_heard_only_a_part(
    weights: dict[int, int], said: dict[int, list[bytes]], deceiving: set[int], data: st.DataObject
) -> None:
    """A result left votes out as members with a third of the weight said they lack them, some of which say the contrary
    to the objector first. Of the others it hears whatever statements, in whatever order, of what they said round by
    round: what they hold only grows, so who lacks votes says so before it says that it has them.
    """
    lackers = {number for number in MEMBERS if WITHOUT in said[number] and b"?" not in said[number]} | deceiving
    if 3 * sum(weights[number] for number in lackers) < sum(weights.values()):
        return
    signatures = listener()
    for number in sorted(deceiving):
        signatures.add(account(number), statement(number, ALL))
        signatures.add(account(number), statement(number, WITHOUT))
    honest = [
        statement(number, held, place)
        for number in sorted(set(MEMBERS) - deceiving)
        for place, held in enumerate(sorted(said[number], key=(WITHOUT, ALL, b"?").index))
    ]
    heard = data.draw(st.lists(st.sampled_from(honest), unique_by=id)) if honest else []
    for one in heard:
        sender = next(account(number) for number in MEMBERS if sign(key_of(number), DIGEST) == one.signature)
        signatures.add(sender, one)
    everyone = Statements(EVERYONE, holders(signatures))
    by_account = {account(number): weight for number, weight in weights.items()}
    assert left_out_without_ground({VICTIM}, everyone, by_account) == frozenset()


@given(st.lists(st.sampled_from((ALL, WITHOUT, b"?")), min_size=1, max_size=4))
def test_what_was_put_together_as_it_came_is_what_all_statements_say(said: list[bytes]) -> None:
    signatures = listener()
    for place, held in enumerate(said):
        signatures.add(account(1), replace(statement(1, held), round=place))
    expected = {} if b"?" in said else {account(1): frozenset() if WITHOUT in said else {VICTIM}}
    assert holders(signatures) == expected


def test_what_was_heard_before_a_restart_is_known_after_it(tmp_path: Path) -> None:
    store = Books(Database(tmp_path / "state.db"), account(1))
    before = listener_with(store)
    before.add(account(1), statement(1, ALL))
    before.add(account(2), statement(2, WITHOUT))
    before.add(account(2), statement(2, ALL, 1))
    before.add(account(3), statement(3, ALL))
    before.add(account(3), statement(3, WITHOUT))  # of two voices, and stays so
    store.database.close()
    after = listener_with(Books(Database(tmp_path / "state.db"), account(1)))
    assert holders(after) == holders(before) == {account(1): {VICTIM}, account(2): frozenset()}
    assert after.signers(EPOCH, DIGEST) == before.signers(EPOCH, DIGEST)
    assert after.holdings(EPOCH, COMMITTED) == before.holdings(EPOCH, COMMITTED)


def test_what_is_kept_of_statements_is_bounded_by_rounds_and_epochs() -> None:
    store = Books(Database(":memory:"), account(1))
    signatures = listener_with(store)
    for epoch in range(4):
        for number in range(ROUNDS_MAX):
            for held in (ALL, WITHOUT, b"", ALL):
                signatures.add(account(2), statement(2, held, number, epoch=EpochNumber(epoch)))
        signatures.add(account(10 + epoch), statement(1, ALL, epoch=EpochNumber(epoch)))
    kept = [from_bytes(ResultSignature, data).epoch for _, data in store.statements()]
    assert kept == sorted([2, 3] * (ROUNDS_MAX * STATEMENTS_PER_ROUND_MAX + 1))
    assert set(signatures._known) == set(signatures._said) == {account(2), account(12), account(13)}


def test_a_statement_by_another_version_is_left_out() -> None:
    store = Books(Database(":memory:"), account(1))
    store.save_statement(EPOCH, account(2), b"of another version")
    store.save_statement(EPOCH, account(1), to_bytes(statement(1, ALL)))
    assert holders(listener_with(store)) == {account(1): {VICTIM}}
