"""What stands for a quantised or damaged model is as far off as was measured; made-up nonces are what they claim."""

import statistics

import pytest
import trio
import trio.testing

from netsim.engine import DrawingEngine
from netsim.forgeries import Asked, ground, made_up, precomputed, replayed, shared_with
from netsim.imitation import FP8, INT4, INT8, LAYERS_DROPPED, ImitatingEngine, Imitation
from netsim.trial import BAND_DISTANCE_MAX
from node.protocol.identifiers import EpochNumber, Hash32
from node.protocol.nonces import draw_sample, nonce_prompt, quantise, squared_distance
from tests.builders import NODE, TINY, account

SEED = Hash32(bytes(32))
NONCES = 300


def distances(imitation: Imitation | None) -> list[int]:
    """Squared distances of its nonces from those of an honest machine."""
    honest = DrawingEngine(NODE, TINY, "honest", 0.01, 1)
    other = (
        DrawingEngine(NODE, TINY, "honest", 0.01, 2)
        if imitation is None
        else ImitatingEngine(NODE, TINY, "honest", 0.01, 2, imitation=imitation)
    )

    async def main() -> list[int]:
        prompts = [nonce_prompt(SEED, account(1), NODE, nonce, honest.vocabulary_size) for nonce in range(NONCES)]
        own, theirs = [await one.prompt_logprobs(prompts, priority=0) for one in (honest, other)]
        pairs = zip(own, theirs, strict=True)
        return [squared_distance(quantise(one), quantise(another)) for one, another in pairs]

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("imitation", [INT8, FP8, INT4, LAYERS_DROPPED], ids=lambda imitation: imitation.name)
def test_nonces_of_an_imitation_are_as_far_off_as_was_measured(imitation: Imitation) -> None:
    found = distances(imitation)
    assert statistics.median(found) == pytest.approx(imitation.distance_median, rel=0.45)  # honest noise adds to int8's


def test_honest_machines_are_within_the_band_and_int8_is_sometimes_beyond() -> None:
    assert max(distances(None)) < BAND_DISTANCE_MAX
    beyond = sum(distance > BAND_DISTANCE_MAX for distance in distances(INT8)) / NONCES
    assert 0.01 < beyond < 0.25


def asked(nonce: int, *, seed: Hash32 = SEED, epoch: int = 0, number: int = 1) -> Asked:
    prompt = nonce_prompt(seed, account(number), NODE, nonce, 3072)
    return Asked(account(number), EpochNumber(epoch), seed, nonce, prompt)


def test_as_many_nonces_are_made_up_as_is_said() -> None:
    forged = [made_up(20)(asked(nonce)) is None for nonce in range(2000)]
    assert 0.01 < sum(forged) / len(forged) < 0.03


def test_who_grinds_hides_its_fakes_from_the_draw_that_it_guesses_and_from_no_other() -> None:
    forge = ground(100, 200, 64)
    fakes = {nonce for nonce in range(200) if forge(asked(nonce)) is None}
    assert len(fakes) == 20
    assert not fakes & set(draw_sample(SEED, account(1), NODE, 200, 64))
    assert fakes & set(draw_sample(Hash32(bytes([1]) * 32), account(1), NODE, 200, 64))


def test_who_replays_hands_in_its_first_nonces_ever_after() -> None:
    forge = replayed()
    first = [forge(asked(nonce)) for nonce in range(4)]
    assert first == [asked(nonce).prompt for nonce in range(4)]
    assert [forge(asked(nonce, seed=Hash32(bytes([9]) * 32), epoch=1)) for nonce in range(4)] == first


def test_who_precomputes_or_shares_computes_other_prompts_than_its_own() -> None:
    later = asked(3, seed=Hash32(bytes([5]) * 32), number=2)
    assert precomputed(later) == nonce_prompt(SEED, account(2), NODE, 3, 3072) != later.prompt
    assert shared_with(account(7))(later) == nonce_prompt(later.seed, account(7), NODE, 3, 3072) != later.prompt
