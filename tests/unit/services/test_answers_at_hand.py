"""Private answers are at hand for a while, in bounds; those that are awaited as long as they are."""

import pytest
import trio

from node.protocol.identifiers import RequestId
from node.services import answers_at_hand
from node.services.answers_at_hand import ANSWERS_MAX, FORGETTING_SECONDS, AnswersAtHand
from tests.unit.protocol.test_audit_evidence import ANSWER, EXECUTOR, receipt_for


def request(number: int) -> RequestId:
    return RequestId(number.to_bytes(32))


def keep(at_hand: AnswersAtHand, number: int) -> None:
    at_hand.keep(receipt_for(ANSWER, request_id=request(number)), ANSWER)


def held(at_hand: AnswersAtHand, numbers: range) -> list[int]:
    return [number for number in numbers if at_hand.find(request(number), EXECUTOR) is not None]


async def test_a_private_answer_is_at_hand_without_its_text_until_its_time_is_over(autojump_clock: object) -> None:
    at_hand = AnswersAtHand(10.0)
    assert at_hand.wants(request(1), is_private=True)
    assert not at_hand.wants(request(1), is_private=False)
    keep(at_hand, 1)
    await trio.sleep(9)
    found = at_hand.find(request(1), EXECUTOR)
    assert found is not None
    assert (found.answer.output_ids, found.answer.text) == (ANSWER.output_ids, "")
    await trio.sleep(2)
    assert at_hand.find(request(1), EXECUTOR) is None


async def test_what_is_too_old_is_gone_though_nobody_asks(autojump_clock: object) -> None:
    at_hand = AnswersAtHand(3600.0)
    keep(at_hand, 1)
    with trio.move_on_after(3599):
        await at_hand.run()
    assert at_hand._found
    with trio.move_on_after(2 * FORGETTING_SECONDS):
        await at_hand.run()
    assert not at_hand._found


async def test_of_no_seconds_only_what_is_awaited_is_kept_and_gone_afterwards(autojump_clock: object) -> None:
    at_hand = AnswersAtHand()
    assert not at_hand.wants(request(1), is_private=True)
    with at_hand.awaiting(request(1)):
        assert at_hand.wants(request(1), is_private=False)
        keep(at_hand, 1)
        keep(at_hand, 2)
        await trio.sleep(1000)
        assert held(at_hand, range(3)) == [1]
    assert held(at_hand, range(3)) == []


async def test_the_oldest_go_when_there_are_too_many_but_none_that_is_awaited(autojump_clock: object) -> None:
    at_hand = AnswersAtHand(1000.0)
    with at_hand.awaiting(request(0)):
        for number in range(ANSWERS_MAX + 2):
            keep(at_hand, number)
        assert held(at_hand, range(ANSWERS_MAX + 2)) == [0, *range(3, ANSWERS_MAX + 2)]


async def test_the_oldest_go_when_they_take_too_much_room(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_hand = AnswersAtHand(1000.0)
    keep(at_hand, 0)
    (one,) = at_hand._found.values()
    monkeypatch.setattr(answers_at_hand, "BYTES_MAX", 2 * len(one.data))
    for number in range(1, 4):
        keep(at_hand, number)
    assert held(at_hand, range(4)) == [2, 3]
