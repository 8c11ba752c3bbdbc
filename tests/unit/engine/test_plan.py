"""The plan of an ML node: every step is allowed, what is wanted is reached, and no answer is cut off without cause."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.engine.plan import (
    STATE_AFTER,
    Action,
    Choice,
    Drain,
    DropStandby,
    Load,
    LoadBeside,
    NodeFacts,
    NodeWishes,
    Promote,
    Resume,
    Settle,
    Stop,
    plan,
    wake_at,
)
from node.engine.states import NEXT_STATES, READY_STATES, IllegalStepError, NodeState, step
from node.protocol.identifiers import Cid, ModelId

DRAIN_SECONDS = 60.0
RETRY_SECONDS = 5.0
A, B, C = (Choice(ModelId(name), Cid(f"cid-{name}"), ()) for name in "abc")
choices = st.sampled_from([None, A, B, C])
wishes_of = st.one_of(
    st.builds(NodeWishes, model=choices, next_model=choices, mining=st.booleans(), held=st.booleans()),
    st.sampled_from([NodeWishes(A, B), NodeWishes(B), NodeWishes(B, A), NodeWishes(A)]),  # as epochs come and go
)


def apply(facts: NodeFacts, action: Action) -> NodeFacts:
    """What carrying an action out does to the facts, checked against the table of steps."""
    following = STATE_AFTER.get(type(action))
    state = facts.state if following in (None, facts.state) else step(facts.state, following)
    assert state is not None
    match action:
        case Load(choice):
            return replace(facts, state=state, current=choice, running_requests=0)
        case LoadBeside(choice):
            return replace(facts, standby=choice, standby_ready=False)
        case Promote():
            retiring = facts.current is not None and facts.state not in (NodeState.STOPPED, NodeState.FAILED)
            return replace(
                facts,
                state=state,
                current=facts.standby,
                standby=None,
                standby_ready=False,
                retiring=retiring,
                running_requests=0,
            )
        case DropStandby():
            return replace(facts, standby=None, standby_ready=False)
        case Drain():
            return replace(facts, state=state, drain_until=facts.now + DRAIN_SECONDS)
        case Stop():
            return replace(facts, state=state, current=None, running_requests=0)
        case Settle():
            return replace(facts, state=state, current=None, given_up=False)
        case _:
            return replace(facts, state=state)


def fail(facts: NodeFacts, given_up: bool) -> NodeFacts:
    return replace(
        facts,
        state=step(facts.state, NodeState.FAILED),
        running_requests=0,
        retry_at=facts.now + RETRY_SECONDS,
        given_up=given_up,
    )


def happen(facts: NodeFacts, event: str) -> NodeFacts:
    """What the world does to a node."""
    match event:
        case "ready" if facts.state is NodeState.LOADING:
            return replace(facts, state=step(facts.state, NodeState.SERVING))
        case "fail" | "give up" if facts.state not in (NodeState.STOPPED, NodeState.FAILED):
            return fail(facts, event == "give up")
        case "standby ready" if facts.standby is not None:
            return replace(facts, standby_ready=True)
        case "standby fails" if facts.standby is not None:
            return replace(facts, standby=None, standby_ready=False, standby_retry_at=facts.now + RETRY_SECONDS)
        case "retired":
            return replace(facts, retiring=False)
        case "request" if facts.state in READY_STATES:
            return replace(facts, running_requests=facts.running_requests + 1)
        case "answered" if facts.running_requests:
            return replace(facts, running_requests=facts.running_requests - 1)
        case "time":
            return replace(facts, now=facts.now + 10)
    return facts


EVENTS = (
    "ready",
    "standby ready",
    "request",
    "fail",
    "give up",
    "standby ready",
    "standby fails",
    "retired",
    "request",
    "answered",
    "time",
)


def follow(facts: NodeFacts, wishes: NodeWishes) -> NodeFacts:
    """Carry out the plan until it has nothing more to do."""
    for _ in range(8):
        action = plan(facts, wishes)
        if action is None:
            return facts
        if isinstance(action, Stop) and facts.state is NodeState.DRAINING:
            assert facts.running_requests == 0 or facts.now >= facts.drain_until
        facts = apply(facts, action)
    raise AssertionError(f"the plan never rests: {facts} {wishes}")


@given(st.lists(st.one_of(wishes_of, st.sampled_from(EVENTS)), max_size=60))
@settings(max_examples=600, deadline=None)
def test_whatever_happens_every_step_is_allowed_and_what_is_wanted_is_reached_in_the_end(
    happenings: list[NodeWishes | str],
) -> None:
    facts, wishes = NodeFacts(NodeState.STOPPED, 0.0), NodeWishes()
    for happening in happenings:
        if isinstance(happening, NodeWishes):
            wishes = happening
        else:
            facts = happen(facts, happening)
        facts = follow(facts, wishes)
    # From now on the world is kind: what loads becomes ready, what runs ends, time passes.
    for event in ("answered", "time", "retired", "ready", "standby ready") * 16:
        facts = follow(happen(facts, event), wishes)
    wanted = None if wishes.held else wishes.model
    if facts.given_up and facts.state is NodeState.FAILED:
        assert facts.current == wanted
    elif wanted is None:
        assert facts.state is NodeState.STOPPED
    else:
        assert (facts.state, facts.current) == (NodeState.MINING if wishes.mining else NodeState.SERVING, wanted)


@given(st.sampled_from(NodeState), st.sampled_from(NodeState))
def test_only_the_steps_of_the_table_are_taken(before: NodeState, after: NodeState) -> None:
    if after in NEXT_STATES[before]:
        assert step(before, after) is after
    else:
        with pytest.raises(IllegalStepError):
            step(before, after)


def ready(**changes: object) -> NodeFacts:
    return replace(NodeFacts(NodeState.SERVING, 100.0, current=A), **changes)  # type: ignore[arg-type]


def test_a_switch_waits_for_the_requests_that_run_but_not_for_ever() -> None:
    wishes = NodeWishes(model=B)
    assert plan(ready(running_requests=3), wishes) == Drain()
    draining = ready(state=NodeState.DRAINING, running_requests=3, drain_until=160.0)
    assert plan(draining, wishes) is None
    assert wake_at(draining) == 160.0
    assert plan(replace(draining, now=160.0), wishes) == Stop()
    assert plan(replace(draining, running_requests=0), wishes) == Stop()
    assert plan(NodeFacts(NodeState.STOPPED, 161.0), wishes) == Load(B)


def test_an_operator_who_changes_his_mind_interrupts_nothing() -> None:
    assert plan(ready(state=NodeState.DRAINING, running_requests=1, drain_until=160.0), NodeWishes(model=A)) == Resume()


def test_the_next_model_is_loaded_beside_and_takes_over_only_when_it_is_ready() -> None:
    assert plan(ready(), NodeWishes(model=A, next_model=B)) == LoadBeside(B)
    loading = ready(standby=B)
    assert plan(loading, NodeWishes(model=A, next_model=B)) is None
    assert plan(loading, NodeWishes(model=B)) is None  # the epoch is over, the old model still serves
    assert plan(ready(standby=B, standby_ready=True), NodeWishes(model=B)) == Promote()
    assert plan(ready(retiring=True), NodeWishes(model=A, next_model=C)) is None  # there is no memory for three


def test_what_was_given_up_is_left_alone_until_something_else_is_wanted() -> None:
    failed = NodeFacts(NodeState.FAILED, 100.0, current=A, given_up=True)
    assert plan(failed, NodeWishes(model=A)) is None
    assert plan(failed, NodeWishes(model=B)) == Load(B)
    assert plan(failed, NodeWishes()) == Settle()
    assert plan(replace(failed, given_up=False, retry_at=101.0), NodeWishes(model=A)) is None
    assert plan(replace(failed, given_up=False, retry_at=100.0), NodeWishes(model=A)) == Load(A)
