"""Room for models: what gives way, and what never does."""

from hypothesis import given
from hypothesis import strategies as st

from node.models.eviction import Held, NoRoom, plan_cooling, plan_eviction
from node.models.identity import LocalModelId

HELD = st.lists(
    st.builds(
        Held,
        st.integers(0, 10_000).map(lambda number: LocalModelId(f"custom/{number}")),
        st.integers(0, 1000),
        st.integers(0, 50),
        pinned=st.booleans(),
        loaded=st.booleans(),
        cold=st.booleans(),
    ),
    max_size=12,
    unique_by=lambda model: model.model_id,
)


@given(HELD, st.integers(0, 3000), st.integers(1, 5000))
def test_a_plan_makes_the_room_it_promises_and_takes_nobody_it_must_not(
    held: list[Held], needed: int, limit: int
) -> None:
    plan = plan_eviction(held, needed, limit)
    stuck = sum(model.size_bytes for model in held if model.pinned or model.loaded)
    if isinstance(plan, NoRoom):
        assert plan.missing_bytes == stuck + needed - limit > 0
        return
    gone = {model.model_id: model for model in held if model.model_id in plan}
    assert len(gone) == len(plan)
    assert not any(model.pinned or model.loaded for model in gone.values())
    left = sum(model.size_bytes for model in held if model.model_id not in gone)
    assert not plan or left + needed <= limit
    for model in gone.values():  # no model goes in vain
        assert left + model.size_bytes + needed > limit


@given(HELD, st.integers(0, 3000), st.integers(1, 5000))
def test_of_equal_models_the_longest_unused_goes_first(held: list[Held], needed: int, limit: int) -> None:
    plan = plan_eviction(held, needed, limit)
    if isinstance(plan, NoRoom):
        return
    free = {model.model_id: model for model in held if not model.pinned and not model.loaded}
    for name in plan:
        for other in free.values():
            if other.model_id not in plan and other.size_bytes == free[name].size_bytes:
                assert free[name].last_used_at <= other.last_used_at


def test_without_a_limit_nothing_goes() -> None:
    assert plan_eviction([Held(LocalModelId("custom/a"), 10**15, 0)], 10**15, 0) == ()


def test_only_what_is_idle_and_free_gets_cold() -> None:
    names = [LocalModelId(f"custom/{name}") for name in ("old", "older", "pinned", "loaded", "cold", "new")]
    held = [
        Held(names[0], 1, 10), Held(names[1], 1, 5), Held(names[2], 1, 0, pinned=True),
        Held(names[3], 1, 0, loaded=True), Held(names[4], 1, 0, cold=True), Held(names[5], 1, 95),
    ]  # fmt: skip
    assert plan_cooling(held, 100, 50) == (names[1], names[0])
