"""Nonces that were not computed as they must be: each cheat's sample differs, and the honest one's does not."""

from collections.abc import Callable

import pytest
import trio
import trio.testing

from netsim.engine import SimulatedEngine
from node.protocol.identifiers import Address, Hash32, NodeId
from node.protocol.nonces import draw_sample, nonce_prompt, quantise, squared_distance
from node.protocol.validation import SampleRule, judge, mismatches_of
from node.protocol.verdicts import Verdict
from tests.builders import NODE, TINY, account

SEED, LAST_SEED, SAMPLE_SEED = (Hash32(bytes([number]) * 32) for number in (1, 2, 3))
COUNT = 80
RULE = SampleRule(distance_max=1_000_000, mismatch_per_million=1000, reject_mismatches=3, sample_size=64)
SECOND_NODE = NodeId("node-2")


def engine(weights: str = "honest", seed: int = 1) -> SimulatedEngine:
    return SimulatedEngine(NODE, TINY, weights, 0.01, seed)


async def compute(
    by: SimulatedEngine,
    nonces: range | list[int] = range(COUNT),
    *,
    seed: Hash32 = SEED,
    participant: Address | None = None,
    node_id: NodeId = NODE,
) -> list[bytes]:
    owner = participant or account(1)
    prompts = [nonce_prompt(seed, owner, node_id, nonce, by.vocabulary_size) for nonce in nonces]
    return [quantise(row) for row in await by.prompt_logprobs(prompts, priority=10)]


async def honest() -> list[bytes]:
    return await compute(engine())


async def another_model() -> list[bytes]:
    return await compute(engine("smaller"))


async def replayed_from_the_last_epoch() -> list[bytes]:
    return await compute(engine(), seed=LAST_SEED)


async def copied_from_another_participant() -> list[bytes]:
    return await compute(engine(), participant=account(2))


async def shared_between_two_nodes_of_one_participant() -> list[bytes]:
    return await compute(engine(), node_id=SECOND_NODE)


async def permuted() -> list[bytes]:
    return list(reversed(await honest()))


async def one_repeated() -> list[bytes]:
    return [(await honest())[0]] * COUNT


async def shifted_by_one() -> list[bytes]:
    return await compute(engine(), range(1, COUNT + 1))


async def only_the_first_half_and_again() -> list[bytes]:
    half = (await honest())[: COUNT // 2]
    return half + half


async def constant() -> list[bytes]:
    return [bytes(126)] * COUNT


CHEATS: list[Callable] = [
    another_model,
    replayed_from_the_last_epoch,
    copied_from_another_participant,
    shared_between_two_nodes_of_one_participant,
    permuted,
    one_repeated,
    shifted_by_one,
    only_the_first_half_and_again,
    constant,
]


def verdict_on(make: Callable) -> Verdict:
    async def main() -> Verdict:
        vectors = await make()
        sample = draw_sample(SAMPLE_SEED, account(1), NODE, COUNT, RULE.sample_size)
        own = await compute(engine(seed=9), list(sample))
        distances = [squared_distance(vectors[nonce], vector) for nonce, vector in zip(sample, own, strict=True)]
        return judge(len(sample), len(mismatches_of(sample, distances, RULE)), RULE)

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("cheat", CHEATS, ids=[cheat.__name__ for cheat in CHEATS])
def test_a_cheat_is_found_by_its_sample(cheat: Callable) -> None:
    assert verdict_on(cheat) is Verdict.INVALID


def test_an_honest_batch_of_other_hardware_passes() -> None:
    assert verdict_on(honest) is Verdict.VALID
