"""The outbox as its operator sees it: every intent with its transactions, the newest first, in plain words."""

from collections.abc import Iterator

import pytest

from node.operations.chain import progress_in_words
from node.ports import ActionStatus
from node.protocol.actions import OVERTAKEN
from node.protocol.identifiers import Address, Hash32
from node.store.chain_tables import Attempt, ChainTables
from node.store.database import Database

TARGET = Address("0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A")
HASH = Hash32(b"\x01" * 32)


@pytest.fixture
def tables() -> Iterator[ChainTables]:
    database = Database(":memory:")
    yield ChainTables(database)
    database.close()


def words(tables: ChainTables, key: str) -> str:
    intent = tables.intent(key)
    assert intent is not None
    return progress_in_words(intent)


def attempt(nonce: int, number: int, fee: int) -> Attempt:
    return Attempt(Hash32(bytes([number]) * 32), nonce, b"raw", fee, 1, 0.0, 50_000)


def test_progress_is_told_from_the_outbox_to_the_confirmation(tables: ChainTables) -> None:
    tables.add_intent("deposit", [(TARGET, b"approve"), (TARGET, b"deposit")])
    assert words(tables, "deposit") == "transaction 1 of 2 is in the outbox"
    for position in (0, 1):
        (waiting,) = tables.startable(1)
        assert waiting.position == position
        tables.sign_first(waiting, attempt(position, position + 1, 10), 0)
        assert words(tables, "deposit") == f"transaction {position + 1} of 2 is sent; waiting for a block"
        tables.set_mined(waiting, mined=True)
        assert "waiting until that is confirmed" in words(tables, "deposit")
        tables.set_confirmed(waiting, HASH, 30_000, None)
    assert words(tables, "deposit") == "confirmed"
    assert tables.intent_counts() == {ActionStatus.PENDING: 0, ActionStatus.DONE: 1, ActionStatus.FAILED: 0}


def test_a_replaced_transaction_is_shown_by_its_dearest_form(tables: ChainTables) -> None:
    tables.add_intent("claim", [(TARGET, b"claim")])
    (waiting,) = tables.startable(1)
    tables.sign_first(waiting, attempt(7, 1, 9), 0)
    tables.sign_again(attempt(7, 2, 10))
    intent = tables.intent("claim")
    assert intent is not None
    assert [(step.status, step.nonce, step.transaction_hash) for step in intent.steps] == [("sent", 7, b"\x02" * 32)]


def test_the_newest_intents_come_first_and_the_pending_ones_alone_if_asked(tables: ChainTables) -> None:
    for number in range(5):
        tables.add_intent(f"intent/{number}", [(TARGET, b"")])
    tables.fail("intent/3", "refused")
    newest = tables.intents(limit=3, pending_only=False)
    assert [intent.key for intent in newest] == ["intent/4", "intent/3", "intent/2"]
    pending = tables.intents(limit=3, pending_only=True)
    assert [intent.key for intent in pending] == ["intent/4", "intent/2", "intent/1"]
    assert words(tables, "intent/3") == "failed"


def test_an_intent_that_is_not_there_is_none(tables: ChainTables) -> None:
    assert tables.intent("absent") is None
    assert tables.intents(limit=1, pending_only=False) == ()


def test_what_somebody_else_did_first_is_no_failure_that_an_operator_is_told_of(tables: ChainTables) -> None:
    for key, reason in (
        ("result/7", "AlreadyPosted: epoch 7, digest 0x01"),
        ("punish/7", "AlreadyPunished: epoch 7, participant 0x02"),
        ("objection/7/01", "ResultMismatch: epoch 7, expected 0x01, actual 0x00"),
        ("claim/7", "NothingToClaim: cumulative 5"),
    ):
        tables.add_intent(key, [(TARGET, b"")])
        tables.fail(key, reason)
    assert tables.failures() == tables.intent_counts()[ActionStatus.FAILED] == 4
    assert tables.failures(without=OVERTAKEN) == 1
