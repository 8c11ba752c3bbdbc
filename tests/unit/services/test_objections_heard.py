"""Objections by gossip: only members' own, only of the present epoch, and never more than fit."""

from dataclasses import replace
from typing import Any

import pytest
from coincurve import PrivateKey

from netsim.chain import SimulatedChain
from netsim.ledger import CHAIN_ID, EPOCH_MANAGER, Ledger
from netsim.trace import Trace
from node.ports import Validity
from node.protocol.eip712 import objection_digest
from node.protocol.identifiers import EpochNumber, Hash32
from node.protocol.messages import Message, MessageBody, Objection, ResultSignature
from node.protocol.signatures import sign
from node.services.objections_heard import OBJECTIONS_PER_MEMBER_MAX, ObjectionsHeard
from tests.builders import PARAMETERS, SOME_CID, account, group_set, key_of

EPOCH = EpochNumber(0)
RESULT = Hash32(b"\x01" * 32)


class StubRouter:
    def register(self, *_: object) -> None:
        pass


@pytest.fixture
async def heard() -> ObjectionsHeard:
    ledger = Ledger(PARAMETERS, 1.0, 1, Trace(), group_set(0, {1: 100, 2: 100}).weights)
    while ledger.height < PARAMETERS.form_offset:
        ledger.mine()
    router: Any = StubRouter()
    return ObjectionsHeard(SimulatedChain(ledger, key_of(9), confirmations=1), router)


def objection(number: int, *, epoch: int = EPOCH, digest: Hash32 = RESULT, key: PrivateKey | None = None) -> Message:
    signed = objection_digest(EpochNumber(epoch), digest, CHAIN_ID, EPOCH_MANAGER)
    body = Objection(EpochNumber(epoch), digest, sign(key or key_of(number), signed))
    return Message(account(number), 0, body)


def say(heard: ObjectionsHeard, message: Message) -> Validity:
    validity = heard.judge(message)
    if validity is Validity.ACCEPT:
        heard._take(message)
    return validity


async def test_members_objections_are_kept_with_the_signature_that_the_contract_wants(heard: ObjectionsHeard) -> None:
    message = objection(1)
    assert say(heard, message) is Validity.ACCEPT
    assert say(heard, objection(2)) is Validity.ACCEPT
    found = heard.objectors(EPOCH, RESULT)
    assert isinstance(message.body, Objection)
    assert found.keys() == {account(1), account(2)}
    assert found[account(1)] == message.body.signature


async def test_an_objection_said_again_is_passed_on_for_those_who_missed_it(heard: ObjectionsHeard) -> None:
    assert say(heard, objection(1)) is Validity.ACCEPT
    assert say(heard, objection(1)) is Validity.ACCEPT


async def test_outsiders_and_other_epochs_say_nothing(heard: ObjectionsHeard) -> None:
    assert say(heard, objection(5)) is Validity.IGNORE
    assert say(heard, objection(1, epoch=1)) is Validity.IGNORE
    assert heard.objectors(EPOCH, RESULT) == {}


async def test_a_signature_of_somebody_else_or_over_something_else_is_punished(heard: ObjectionsHeard) -> None:
    assert say(heard, objection(1, key=key_of(2))) is Validity.REJECT
    body = objection(1, digest=Hash32(b"\x02" * 32)).body
    assert isinstance(body, Objection)
    assert say(heard, Message(account(1), 0, Objection(EPOCH, RESULT, body.signature))) is Validity.REJECT
    assert say(heard, Message(account(1), 0, Objection(EPOCH, RESULT, b"short"))) is Validity.REJECT
    other: MessageBody = ResultSignature(EPOCH, RESULT, b"", 0, b"", SOME_CID)
    assert say(heard, Message(account(1), 0, other)) is Validity.REJECT


@pytest.mark.parametrize("length_bytes", [0, 31, 33, 1000])
async def test_what_is_no_digest_of_a_result_is_punished(heard: ObjectionsHeard, length_bytes: int) -> None:
    body = objection(1, digest=Hash32(bytes(32))).body  # the shorter ones, filled up with zeros, are the same
    assert isinstance(body, Objection)
    short = replace(body, result_digest=Hash32(bytes(length_bytes)))
    assert say(heard, Message(account(1), 0, short)) is Validity.REJECT


async def test_no_member_fills_the_memory(heard: ObjectionsHeard) -> None:
    for number in range(OBJECTIONS_PER_MEMBER_MAX):
        assert say(heard, objection(1, digest=Hash32(number.to_bytes(32)))) is Validity.ACCEPT
    assert say(heard, objection(1)) is Validity.IGNORE
    assert heard.objectors(EPOCH, RESULT) == {}


async def test_objections_of_an_epoch_are_forgotten_with_the_first_of_a_later_one(heard: ObjectionsHeard) -> None:
    say(heard, objection(1))
    later = objection(1, epoch=4).body
    assert isinstance(later, Objection)
    heard.add(account(1), later)
    assert heard.objectors(EPOCH, RESULT) == {}
    assert heard.objectors(EpochNumber(4), RESULT).keys() == {account(1)}
