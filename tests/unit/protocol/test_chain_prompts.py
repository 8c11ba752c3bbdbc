"""Prompts on chain: substitutes begin one after another in the second half, and nobody too late to answer."""

from hypothesis import given
from hypothesis import strategies as st

from node.protocol.chain_prompts import SUBSTITUTE_TURNS, answers_from, substitutes
from node.protocol.chain_state import PROMPTS_ENDED_MAX, PROMPTS_UNFINISHED_MAX, ChainState, PromptState
from node.protocol.events import (
    ChainEvent,
    EventBody,
    PromptAnswered,
    PromptDisputed,
    PromptReclaimed,
    PromptSettled,
    PromptSubmitted,
)
from node.protocol.identifiers import BlockNumber, EpochNumber, Hash32, ModelId, TokenAmount
from tests.builders import NODE, SOME_CID, TINY, account, group_set, registered, state_of

EPOCH = EpochNumber(0)
MEMBERS = (1, 2, 3, 4, 5, 6)


def submitted(prompt_id: int = 0, *, deadline: int = 60, executor: int = 1) -> PromptSubmitted:
    return PromptSubmitted(
        prompt_id, account(9), TINY, SOME_CID, SOME_CID, 100, TokenAmount(100), account(executor), BlockNumber(deadline)
    )


def members(*numbers: int) -> ChainState:
    return state_of(
        *(body for number in numbers for body in registered(number)),
        *registered(7, (NODE, ModelId("other"))),
        group_set(EPOCH, dict.fromkeys((*numbers, 7), 1)),
    )


@given(st.integers(0, 2**64), st.integers(1, 500), st.integers(0, 1000))
def test_turns_lie_in_the_second_half_that_the_contract_allows(prompt_id: int, blocks: int, start: int) -> None:
    prompt = PromptState(submitted(deadline=start + blocks), BlockNumber(start))
    state = members(*MEMBERS)
    assert answers_from(prompt_id, prompt, account(1), EPOCH, state) == start
    late_after = start + blocks - blocks // 2
    order = substitutes(prompt_id, prompt, EPOCH, state)
    begins = [answers_from(prompt_id, prompt, member, EPOCH, state) for member in order]
    assert all(begin is not None and late_after < begin <= start + blocks + 1 for begin in begins)
    assert begins == sorted(begins, key=lambda begin: begin or 0)
    assert begins[0] == late_after + 1
    if blocks // 2 >= SUBSTITUTE_TURNS:
        assert len(set(begins)) == SUBSTITUTE_TURNS


def test_only_members_with_the_model_stand_in() -> None:
    state = members(*MEMBERS)
    prompt = PromptState(submitted(), BlockNumber(10))
    assert set(substitutes(0, prompt, EPOCH, state)) == {account(number) for number in MEMBERS[1:]}
    assert answers_from(0, prompt, account(7), EPOCH, state) is None
    assert answers_from(0, prompt, account(9), EPOCH, state) is None


def test_another_prompt_has_another_order() -> None:
    state = members(*MEMBERS)
    prompt = PromptState(submitted(), BlockNumber(10))
    assert len({substitutes(prompt_id, prompt, EPOCH, state) for prompt_id in range(20)}) > 10


# --- what is kept of prompts on chain ---------------------------------------------------------------------------------


def fold(state: ChainState, *bodies: EventBody, block: int = 10) -> None:
    for body in bodies:
        state.apply(ChainEvent(BlockNumber(block), Hash32(bytes(32)), 0, body))


def answer(prompt_id: int) -> PromptAnswered:
    return PromptAnswered(prompt_id, account(1), SOME_CID, 1, 2, TokenAmount(3), BlockNumber(90))


def test_only_the_newest_ended_prompts_are_kept() -> None:
    state = ChainState()
    for prompt_id in range(PROMPTS_ENDED_MAX + 5):
        fold(state, submitted(prompt_id), PromptReclaimed(prompt_id, account(9), TokenAmount(100)))
    assert len(state.prompts) == len(state.ended_prompts) == PROMPTS_ENDED_MAX
    assert min(state.prompts) == 5
    assert not state.unfinished_prompts
    assert state.prompts_submitted == PROMPTS_ENDED_MAX + 5


def test_a_flood_of_prompts_drops_what_no_money_waits_for_and_keeps_what_is_to_be_paid() -> None:
    state = ChainState()
    fold(state, submitted(0), answer(0), submitted(1, deadline=20), submitted(2, deadline=500))
    fold(state, *(submitted(prompt_id, deadline=500) for prompt_id in range(3, PROMPTS_UNFINISHED_MAX)), block=11)
    fold(state, submitted(PROMPTS_UNFINISHED_MAX, deadline=500), block=21)
    assert 1 not in state.prompts, "too late to be answered"
    fold(state, submitted(PROMPTS_UNFINISHED_MAX + 1, deadline=500), block=21)
    assert 2 not in state.prompts
    assert 0 in state.prompts
    assert len(state.unfinished_prompts) == len(state.prompts) == PROMPTS_UNFINISHED_MAX


def test_what_comes_of_a_dropped_prompt_is_ignored() -> None:
    state = ChainState()
    settled = PromptSettled(7, account(1), TokenAmount(3), TokenAmount(97))
    fold(state, answer(7), PromptDisputed(7, account(9), SOME_CID, BlockNumber(99)), settled)
    assert state == ChainState()
