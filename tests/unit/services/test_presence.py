"""Presence: who may say what about whom, for how long, and that nothing is kept beyond that."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from node.ports import Validity
from node.protocol.chain_state import ChainState
from node.protocol.identifiers import Address, ModelId
from node.protocol.messages import PRESENCE_SECONDS_MAX, Message, Presence
from node.services.presence import FUTURE_SECONDS_MAX, MODELS_MAX, TEXT_CHARACTERS_MAX, PresenceTable
from tests.builders import account, peer, registered, state_of

NOW = 1_700_000_000
OWN = account(9)
RECORD = Presence(peer(1), "host.example", 4802, (), 0, "1.0", NOW + 45)


@dataclass
class StandIn:
    """As much of a chain as the table asks for, and its clock."""

    now: int = NOW
    account: Address = OWN
    state: ChainState = field(default_factory=lambda: state_of(*registered(1), *registered(2)))


@pytest.fixture
def chain() -> StandIn:
    return StandIn()


@pytest.fixture
def table(chain: StandIn) -> PresenceTable:
    stand_in: Any = chain
    return PresenceTable(stand_in, lambda: chain.now)


def says(body: Presence, *, sender: int = 1, at: int = NOW) -> Message:
    return Message(account(sender), at, body)


def test_a_record_is_kept_until_it_expires_and_the_table_shrinks_with_it(chain: StandIn, table: PresenceTable) -> None:
    assert table.judge(says(RECORD)) is Validity.ACCEPT
    table.take(says(RECORD))
    chain.now = RECORD.expires_at - 1
    assert table.record_of(account(1)) == RECORD
    chain.now = RECORD.expires_at
    table.forget_expired()
    assert not table._records
    assert table.judge(says(RECORD)) is Validity.IGNORE


def test_an_older_record_said_again_does_not_replace_a_newer_one(chain: StandIn, table: PresenceTable) -> None:
    newer = replace(RECORD, expires_at=RECORD.expires_at + 10, load=3)
    table.take(says(newer, at=NOW + 10))
    chain.now = NOW + 11
    assert table.judge(says(RECORD)) is Validity.IGNORE


def test_a_record_from_the_future_is_refused_and_nobody_blamed(table: PresenceTable) -> None:
    late = replace(RECORD, expires_at=RECORD.expires_at + FUTURE_SECONDS_MAX)
    assert table.judge(says(late, at=NOW + FUTURE_SECONDS_MAX)) is Validity.ACCEPT
    assert table.judge(says(late, at=NOW + FUTURE_SECONDS_MAX + 1)) is Validity.IGNORE


def test_only_the_registered_peer_of_an_account_speaks_for_it(table: PresenceTable) -> None:
    assert table.judge(says(RECORD, sender=2)) is Validity.IGNORE
    assert table.judge(says(replace(RECORD, peer_id=peer(5)), sender=5)) is Validity.IGNORE


@pytest.mark.parametrize(
    "change",
    [
        {"expires_at": NOW + PRESENCE_SECONDS_MAX + 1},
        {"expires_at": NOW},
        {"content_port": -1},
        {"content_port": 1 << 16},
        {"load": -1},
        {"capacity": -1},
        {"models": tuple(ModelId(f"m{n}") for n in range(MODELS_MAX + 1))},
        {"version": "x" * (TEXT_CHARACTERS_MAX + 1)},
        {"content_host": "x" * (TEXT_CHARACTERS_MAX + 1)},
        {"content_host": "a\nb"},
        {"content_host": "ü"},
        {"content_host": "a..b"},
        {"content_host": "x" * 64},
    ],
)
def test_a_record_no_honest_node_makes_is_rejected(table: PresenceTable, change: dict[str, Any]) -> None:
    assert table.judge(says(replace(RECORD, **change))) is Validity.REJECT


def test_who_has_no_content_to_give_names_no_host(table: PresenceTable) -> None:
    assert table.judge(says(replace(RECORD, content_host=""))) is Validity.ACCEPT


def test_the_maker_of_a_content_is_asked_before_all_others_and_only_once(table: PresenceTable) -> None:
    for number in (1, 2):
        table.take(says(replace(RECORD, content_host=f"host-{number}"), sender=number))
    everyone = table.providers()
    assert {provider.host for provider in everyone} == {"host-1", "host-2"}
    for number in (1, 2):
        first, *others = table.providers(account(number))
        assert first.host == f"host-{number}"
        assert sorted([first.host, *(other.host for other in others)]) == ["host-1", "host-2"]
    assert table.providers(account(3)) == table.providers(OWN) == everyone


def test_content_is_asked_for_where_its_holders_are_now(chain: StandIn, table: PresenceTable) -> None:
    table.take(says(replace(RECORD, content_host="old")))
    assert [provider.host for provider in table.providers()] == ["old"]
    table.take(says(replace(RECORD, content_host="new", expires_at=NOW + 50)))
    assert [provider.host for provider in table.providers()] == ["new"]
    chain.now = NOW + 49
    assert [provider.host for provider in table.providers()] == ["new"]
    chain.now = NOW + 50
    assert table.providers() == ()
    table.take(says(replace(RECORD, content_host="back", expires_at=NOW + 90)))
    assert [provider.host for provider in table.providers()] == ["back"]
