"""Open prompts: one answer wins in whatever order answers come; turns do not overlap; the order cannot be changed."""

import itertools
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.protocol.identifiers import Address, Cid, EpochNumber, ModelId, RequestId, TokenAmount
from node.protocol.messages import Message, Topic, seal, unseal
from node.protocol.open_prompts import (
    ARRIVAL_SECONDS_MAX,
    DRAWN_MAX,
    Answered,
    AnswerFault,
    OpenAnswer,
    Posted,
    answer_fault,
    decided_from,
    default_turn_seconds,
    draw_order,
    keeps_order,
    turn_of,
    winning_answer,
)
from node.protocol.pricing import price, receipt_digest, tokens_commitment
from node.protocol.receipts import draw_commitment
from node.protocol.records import Receipt, SignedReceipt
from node.protocol.sampling import SamplingParameters
from node.protocol.signatures import sign
from tests.builders import NODE, PARAMETERS, SOME_CID, TINY, account, key_of, model
from tests.vectors import open_prompts as vectors

UNIT_PRICE = PARAMETERS.unit_price
PAYER = account(9)
NUMBER_OF = {account(number): number for number in vectors.MEMBERS}


def posted() -> Posted:
    return Posted(PAYER, vectors.POSTED_AT, vectors.prompt())


def receipt(executor: Address, *, prompt_tokens: int = 10, output_tokens: int = 20) -> Receipt:
    return Receipt(
        request_id=vectors.REQUEST_ID,
        epoch=vectors.EPOCH,
        model_id=TINY,
        model_cid=SOME_CID,
        payer=PAYER,
        executor=executor,
        node_id=NODE,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        prompt_commitment=tokens_commitment([1]),
        output_commitment=tokens_commitment([2]),
        draw_commitment=draw_commitment(SamplingParameters(), 0, (), ""),
        is_verifiable=True,
        seeded_by_user=True,
        at=vectors.POSTED_AT,
        price=price(prompt_tokens, output_tokens, model(), UNIT_PRICE),
    )


def answered(
    executor: Address, at: int, given: Receipt | None = None, *, signer: Address | None = None, cid: Cid = SOME_CID
) -> Answered:
    given = given or receipt(executor)
    signature = sign(key_of(NUMBER_OF[signer or executor]), receipt_digest(given))
    return Answered(executor, at, OpenAnswer(cid, SignedReceipt(given, signature)))


def in_turn(executor: Address, seconds: int = 3) -> Answered:
    turn = turn_of(posted(), executor)
    assert turn is not None
    return answered(executor, turn.begin + seconds)


def fault(given: Answered) -> AnswerFault | None:
    return answer_fault(posted(), given, model(), UNIT_PRICE)


def test_the_rules_give_the_pinned_vectors() -> None:
    assert json.loads(json.dumps(vectors.compute())) == json.loads(vectors.PATH.read_text())


def test_an_open_prompt_comes_through_gossip_as_it_was_sent() -> None:
    topic, data = seal("n", PAYER, 7, vectors.prompt(), lambda digest: sign(key_of(9), digest))
    assert topic is Topic.PROMPTS
    assert unseal("n", topic, data) == Message(PAYER, 7, vectors.prompt())


# --- the draw and the turns -------------------------------------------------------------------------------------------


def test_a_participant_with_several_nodes_has_one_turn() -> None:
    order = draw_order(vectors.REQUEST_ID, vectors.group(), TINY)
    assert sorted(order) == sorted(account(number) for number in vectors.MEMBERS)


@given(st.lists(st.booleans(), min_size=5, max_size=5))
def test_a_payer_may_leave_out_but_never_reorder(kept: list[bool]) -> None:
    order = draw_order(vectors.REQUEST_ID, vectors.group(), TINY)
    drawn = tuple(itertools.compress(order, kept))
    assert keeps_order(drawn, order)
    assert all(not keeps_order(swapped, order) for swapped in itertools.permutations(drawn) if swapped != drawn)
    assert not keeps_order((*drawn, account(77)), order)


def test_turns_follow_each_other_without_gap_or_overlap() -> None:
    turns = [turn_of(posted(), executor) for executor in posted().prompt.drawn]
    assert turns[0] is not None
    assert turns[0].begin == posted().at
    for before, after in itertools.pairwise(turns):
        assert before is not None
        assert after is not None
        assert before.end == after.begin
    assert turns[-1] is not None
    assert turns[-1].end == posted().deadline
    assert turn_of(posted(), account(77)) is None


@given(st.integers(1, 1_000_000))
def test_the_usual_turn_is_a_legal_one(max_tokens: int) -> None:
    replace(vectors.prompt(), turn_seconds=default_turn_seconds(max_tokens))


@pytest.mark.parametrize(
    "changes",
    [
        {"request_id": RequestId(b"short")},
        {"drawn": ()},
        {"drawn": (account(1), account(1))},
        {"drawn": tuple(account(n) for n in range(1, DRAWN_MAX + 2))},
        {"max_tokens": 0},
        {"price_limit": TokenAmount(-1)},
        {"turn_seconds": 1},
        {"turn_seconds": 10_000},
        {"reply_key": b"short"},
    ],
)
def test_a_prompt_out_of_bounds_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"\d|twice|negative|none"):
        replace(vectors.prompt(), **changes)  # type: ignore[arg-type]


# --- which answer is paid ---------------------------------------------------------------------------------------------


def test_each_way_an_answer_can_be_wrong_has_a_name() -> None:
    first, second = posted().prompt.drawn[:2]
    at = posted().at
    right = receipt(first)
    dear = replace(right, price=TokenAmount(right.price + 1))
    cases = {
        AnswerFault.NOT_DRAWN: [answered(next(a for a in NUMBER_OF if a not in posted().prompt.drawn), at)],
        AnswerFault.OUT_OF_TURN: [
            answered(second, at),
            answered(first, at - 1),
            answered(first, at + posted().prompt.turn_seconds),
        ],
        AnswerFault.OTHER_REQUEST: [
            answered(first, at, replace(right, request_id=RequestId(bytes(32)))),
            answered(first, at, replace(right, payer=account(1))),
            answered(first, at, replace(right, executor=second)),
            answered(first, at, replace(right, epoch=EpochNumber(4))),
            answered(first, at, replace(right, model_id=ModelId("other"))),
        ],
        AnswerFault.OVERPRICED: [
            answered(first, at, dear),
            answered(first, at, receipt(first, prompt_tokens=90, output_tokens=20)),
            answered(first, at, receipt(first, output_tokens=0)),
            answered(first, at, receipt(first, prompt_tokens=0)),
        ],
        AnswerFault.BAD_SIGNATURE: [answered(first, at, right, signer=second)],
    }
    for expected, wrong in cases.items():
        assert [fault(given) for given in wrong] == [expected] * len(wrong)
    assert fault(answered(first, at)) is None


def test_an_answer_above_the_offer_is_not_paid() -> None:
    first = posted().prompt.drawn[0]
    stingy = replace(posted(), prompt=replace(posted().prompt, price_limit=TokenAmount(1)))
    assert answer_fault(stingy, answered(first, stingy.at), model(), UNIT_PRICE) is AnswerFault.OVERPRICED


def test_of_several_in_turn_the_earliest_turn_wins() -> None:
    answers = [in_turn(executor) for executor in posted().prompt.drawn]
    assert winning_answer(posted(), answers, model(), UNIT_PRICE) == answers[0]
    assert winning_answer(posted(), answers[1:], model(), UNIT_PRICE) == answers[1]
    assert winning_answer(posted(), [], model(), UNIT_PRICE) is None


arrivals = st.lists(
    st.tuples(st.sampled_from(sorted(NUMBER_OF)), st.integers(-5, 120), st.booleans(), st.integers(0, 6)), max_size=12
)


@settings(deadline=None, max_examples=50)
@given(arrivals, st.randoms(use_true_random=False))
def test_any_order_of_arrival_gives_the_same_winner_and_only_one_is_ever_in_turn(
    sent: list[tuple[Address, int, bool, int]], source: object
) -> None:
    answers = [
        answered(executor, posted().at + seconds, signer=None if honest else account(1))
        for executor, seconds, honest, _ in sent
    ]
    winner = winning_answer(posted(), answers, model(), UNIT_PRICE)
    for _ in range(4):
        source.shuffle(answers)  # type: ignore[attr-defined]
        assert winning_answer(posted(), answers, model(), UNIT_PRICE) == winner
    good = [given for given in answers if fault(given) is None]
    assert (winner is None) == (not good)
    assert len({(given.at - posted().at) // posted().prompt.turn_seconds for given in good}) == len(
        {given.executor for given in good}
    )


@settings(deadline=None, max_examples=30)
@given(arrivals)
def test_a_payer_that_decides_when_it_may_pays_the_winner_that_everybody_names(
    sent: list[tuple[Address, int, bool, int]],
) -> None:
    """Each answer arrives within ARRIVAL_SECONDS_MAX of being made; the payer looks once a second."""
    made = [
        (answered(executor, posted().at + seconds), posted().at + seconds + min(delay, ARRIVAL_SECONDS_MAX))
        for executor, seconds, _, delay in sent
    ]
    paid: list[Address] = []
    for now in range(posted().at, posted().deadline + ARRIVAL_SECONDS_MAX + 1):
        here = [given for given, arrives in made if arrives <= now]
        found = winning_answer(posted(), here, model(), UNIT_PRICE)
        if found is None or paid:
            continue
        turn = turn_of(posted(), found.executor)
        assert turn is not None
        if now >= decided_from(turn):
            paid.append(found.executor)
    everything = winning_answer(posted(), [given for given, _ in made], model(), UNIT_PRICE)
    assert paid == ([] if everything is None else [everything.executor])
