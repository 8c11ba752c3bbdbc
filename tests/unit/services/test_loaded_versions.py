"""Nobody is judged by the numbers of another version of a model than it had."""

from array import array
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from netsim.chain import SimulatedChain
from netsim.engine import SimulatedEngine
from netsim.ledger import Ledger
from netsim.trace import Trace
from node.ports import EngineRefusedError
from node.protocol.identifiers import Cid, Hash32, ModelId, NodeId
from node.protocol.model_numbers import makes_same_numbers
from node.protocol.records import ModelRecord, PocVote
from node.protocol.stages import Stage, first_block_of
from node.protocol.tails import NO_TIME, judge_tails
from node.protocol.verdicts import Verdict
from node.services.loaded_versions import may_be_loaded
from node.services.recomputing import ModelGoneError, recompute
from node.services.turns import NotNowError
from node.services.vote_checking import REFUSED_SECONDS, VoteChecker
from node.services.vote_evidence import ReadFigures
from tests.builders import NODE, PARAMETERS, account, group_set, key_of, model

OLD = model()
NEW = replace(OLD, cid=Cid("bafy-of-other-weights"), version=2)
KEY = (account(2), NODE)
KEY_OF_OTHER = (account(3), NODE)
SAMPLE = tuple(range(40))
GENERATE_SEED, SAMPLE_SEED, CHECKS_SEED = (Hash32(bytes([number]) * 32) for number in (1, 2, 3))


def chain_in(stage: Stage, registered: ModelRecord) -> SimulatedChain:
    ledger = Ledger(PARAMETERS, 1.0, 0, Trace(), group_set(0, {1: 1}).weights)
    ledger.register_model(registered)
    while ledger.height < first_block_of(0, stage, PARAMETERS):
        ledger.mine()
    return SimulatedChain(ledger, key_of(1), confirmations=0)


def group(version: ModelRecord | None) -> Any:
    return SimpleNamespace(get_epoch_model=lambda _: version)


def epochs(present: ModelRecord | None, coming: ModelRecord | None = None) -> Any:
    """Groups that have this version of the model, or none; without a second one the next is not known."""
    result = None if coming is None else SimpleNamespace(group=group(coming))
    return SimpleNamespace(group=lambda: group(present), result=lambda _: result)


@pytest.mark.parametrize(
    "change",
    [
        {"cid": NEW.cid},
        {"model_args": ("--max-model-len", "77")},
        {"quantization": "fp8"},
        {"kv_cache_quantization": "fp8_e5m2"},
        {"context_length": OLD.context_length + 1},
    ],
)
def test_versions_that_differ_in_what_an_engine_reads_make_other_numbers(change: dict[str, Any]) -> None:
    assert not makes_same_numbers(OLD, replace(OLD, version=2, **change))


def test_a_new_price_or_name_changes_no_number() -> None:
    again = replace(OLD, version=2, name="other", units_of_compute_per_token=9, poc_distance_max=1)
    assert makes_same_numbers(OLD, again)


@pytest.mark.parametrize("stage", list(Stage))
async def test_the_version_of_the_group_in_charge_is_loaded_and_in_load_perhaps_the_next_one(stage: Stage) -> None:
    chain = chain_in(stage, NEW)
    assert may_be_loaded(chain, epochs(OLD), OLD)
    assert not may_be_loaded(chain, epochs(OLD), NEW)
    assert may_be_loaded(chain, epochs(OLD, coming=NEW), OLD) is (stage is not Stage.LOAD)
    assert may_be_loaded(chain, epochs(None), NEW)  # the registry stands in
    assert not may_be_loaded(chain, epochs(None), OLD)


RULES = SimpleNamespace(
    epoch=7,
    commits={KEY: SimpleNamespace(model_id=OLD.model_id)},
    models={OLD.model_id: OLD},
    generate_seed=GENERATE_SEED,
    sample_seed=SAMPLE_SEED,
    sample_of=lambda _key: SAMPLE,
)
"""Of an epoch in which the model was as it was first."""


@pytest.mark.parametrize(
    ("version", "weights", "verdict"), [(OLD, "first", Verdict.VALID), (NEW, "second", Verdict.ABSTAIN)]
)
async def test_votes_of_before_a_model_was_updated_are_not_called_invented(
    version: ModelRecord, weights: str, verdict: Verdict
) -> None:
    def engine(runs: str, seed: int) -> Any:
        return SimulatedEngine(NODE, OLD.model_id, runs, 0.0, seed)

    own = await recompute(engine("first", 0), OLD, KEY, SAMPLE, GENERATE_SEED, SAMPLE_SEED, account(5))
    bundle: Any = SimpleNamespace(votes=(PocVote(*KEY, Verdict.VALID, len(SAMPLE), (), ""),), validator=account(5))
    unused: Any = None
    judging: Any = RULES
    checker = VoteChecker(chain_in(Stage.SERVE, version), unused, unused, epochs(version), [engine(weights, 1)])
    claimed, recomputed = await checker._tails(
        bundle, {KEY: ReadFigures(array("Q"), array("L", own.tails))}, judging, CHECKS_SEED, OLD.model_id
    )
    assert judge_tails(account(5), OLD.model_id, claimed, recomputed).verdict is verdict


class Refusing(SimulatedEngine):
    refuses = True

    async def prompt_logprobs(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[list[float]]:
        if not self.refuses:
            return await super().prompt_logprobs(prompts, priority=priority)
        raise EngineRefusedError(f"401 to {len(prompts)} prompts at priority {priority}")


def honest(node_id: str = NODE, model_id: ModelId = OLD.model_id) -> SimulatedEngine:
    return SimulatedEngine(NodeId(node_id), model_id, "first", 0.0, 0)


async def checking(*engines: Any) -> tuple[Any, Any]:
    """Return a checker with these engines, and what looks at honest votes on a batch of one of two models, by it."""
    other = replace(OLD, model_id=ModelId("other"))
    own = await recompute(honest(), OLD, KEY, SAMPLE, GENERATE_SEED, SAMPLE_SEED, account(5))
    votes = tuple(PocVote(*key, Verdict.VALID, len(SAMPLE), (), "") for key in (KEY, KEY_OF_OTHER))
    bundle: Any = SimpleNamespace(votes=votes, validator=account(5), epoch=0)
    commits = {**RULES.commits, KEY_OF_OTHER: SimpleNamespace(model_id=other.model_id)}
    models = {OLD.model_id: OLD, other.model_id: other}
    unused: Any = None
    judging: Any = SimpleNamespace(**{**vars(RULES), "commits": commits, "models": models})
    loaded: Any = SimpleNamespace(group=lambda: SimpleNamespace(get_epoch_model=models.get), result=lambda _: None)
    checker: Any = VoteChecker(chain_in(Stage.SERVE, OLD), unused, unused, loaded, engines)
    figures = dict.fromkeys((KEY, KEY_OF_OTHER), ReadFigures(array("Q"), array("L", own.tails)))

    async def read(*_: object) -> Any:
        await trio.lowlevel.checkpoint()
        return figures

    vars(checker)["_figures"] = read

    async def look(*model_ids: ModelId, found: Any = None) -> Any:
        if found is None:
            return await checker._tails(bundle, figures, judging, CHECKS_SEED, *model_ids)
        return await checker._check(bundle, list(model_ids), judging, CHECKS_SEED, found)

    return checker, look


async def tails_by(*engines: Any) -> tuple[list[int], list[int]]:
    """Check honest votes on a batch of the first model, with these engines."""
    _, look = await checking(*engines)
    found: tuple[list[int], list[int]] = await look(OLD.model_id)
    return found


async def test_an_engine_that_refuses_is_asked_again_and_makes_no_vote_of_a_validator_false(
    autojump_clock: object,
) -> None:
    """As for batches: its key may be put right while there is time."""
    engine: Any = Refusing(NODE, OLD.model_id, "first", 0.0, 1)
    checker, look = await checking(engine)
    with pytest.raises(NotNowError) as raised:
        await look(OLD.model_id)
    wait = raised.value.wait
    assert wait is not None
    assert not wait.is_over()
    engine.refuses = False
    with pytest.raises(NotNowError):  # left alone for a while
        await look(OLD.model_id)
    await trio.sleep(REFUSED_SECONDS)
    assert wait.is_over()
    claimed, recomputed = await look(OLD.model_id)
    assert judge_tails(account(5), OLD.model_id, claimed, recomputed).verdict is Verdict.VALID
    assert checker._is_askable(engine)


async def test_engines_with_the_same_model_count_its_tails_once() -> None:
    """Else one odd tail in 24 is five in 120, which no honest machine has."""
    one, five = await tails_by(honest()), await tails_by(*(honest(str(number)) for number in range(5)))
    assert one == five
    assert one[0]


async def test_where_the_first_engine_of_a_model_refuses_the_next_one_checks() -> None:
    assert await tails_by(Refusing(NODE, OLD.model_id, "first", 0.0, 1), honest("second")) == await tails_by(honest())


class Hanging(SimulatedEngine):
    async def prompt_logprobs(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[list[float]]:
        await trio.sleep_forever()
        raise AssertionError(f"{len(prompts)} prompts at priority {priority}")


async def test_an_engine_that_hangs_costs_no_check_by_another(autojump_clock: object) -> None:
    assert await tails_by(Hanging(NODE, OLD.model_id, "first", 0.0, 1), honest("second")) == await tails_by(honest())


@pytest.mark.parametrize("is_first", [False, True])
async def test_an_engine_that_hangs_costs_no_check_of_another_model(autojump_clock: object, *, is_first: bool) -> None:
    hanging, other = Hanging(NODE, ModelId("other"), "first", 0.0, 1), honest("second")
    _, look = await checking(*([hanging, other] if is_first else [other, hanging]))
    found: dict[Any, Any] = {}
    with pytest.raises(ModelGoneError):
        await look(ModelId("other"), OLD.model_id, found=found)
    assert found[account(5), OLD.model_id].verdict is Verdict.VALID
    assert (account(5), ModelId("other")) not in found or found[account(5), ModelId("other")].reason == NO_TIME


async def test_where_no_other_engine_gave_anything_votes_are_checked_again_later(autojump_clock: object) -> None:
    with pytest.raises(ModelGoneError):
        await tails_by(Hanging(NODE, OLD.model_id, "first", 0.0, 1))
