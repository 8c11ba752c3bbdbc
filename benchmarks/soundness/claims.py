"""What a prover claims: nonces' vectors, and answers with their log-probabilities, kept as files between two runs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from benchmarks.soundness.models import PROMPT_TOKENS, PROMPTS_FILE, VOCABULARY_SIZE
from benchmarks.soundness.variants import Prover, Way
from node.engine.client import EngineClient
from node.engine.drawing import DrawStyle, draw_fields, read_candidates, read_token_id
from node.protocol.identifiers import Address, Hash32, NodeId
from node.protocol.nonces import nonce_prompt, quantise
from node.protocol.sampling import SamplingParameters

ANSWER_TOKENS = 256
CLAIMED_TOP = 5
ANSWERS_AT_ONCE = 64
NONCES = 512
NONCES_AT_ONCE = 64
EPOCH_SEED = Hash32(b"\x07" * 32)
PARTICIPANT = Address("0x" + "11" * 20)
NODE = NodeId("node-1")
SEED_FIRST = 0x5EED_0000_0000
FILLER = 0
"""The model's own first token: stands where a prompt is not read, so that the noise keeps its positions."""
MICRO = 1_000_000
DECLARED = SamplingParameters()
"""What every claimed answer says of itself: temperature 1, nothing cut."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One answer as its executor states it."""

    prompt: tuple[int, ...]
    seed: int
    tokens: tuple[int, ...]
    tops: tuple[dict[int, float], ...]
    """For each token, log-probabilities of the likeliest ones."""


def read_prompts(models: Path, numbers: range) -> list[tuple[int, ...]]:
    """Return the prompts of some answers."""
    prompts = json.loads((models / PROMPTS_FILE).read_text())
    return [tuple(prompts[number % len(prompts)]) for number in numbers]


def seed_of(number: int) -> int:
    """Return the seed of an answer."""
    return SEED_FIRST + 7919 * number


async def nonce_vectors(
    client: EngineClient, count: int, seed: Hash32 = EPOCH_SEED, participant: Address = PARTICIPANT
) -> list[bytes]:
    """Return the quantised vectors of nonces 0 to count - 1."""
    vectors: list[bytes] = []
    for start in range(0, count, NONCES_AT_ONCE):
        nonces = range(start, min(count, start + NONCES_AT_ONCE))
        prompts = [nonce_prompt(seed, participant, NODE, nonce, VOCABULARY_SIZE) for nonce in nonces]
        vectors += [quantise(values) for values in await client.prompt_logprobs(prompts, priority=0)]
    return vectors


async def make_claims(
    client: EngineClient, prover: Prover, models: Path, numbers: range, *, at_once: int = ANSWERS_AT_ONCE
) -> list[Claim]:
    """Have the engine answer as `prover` does."""
    prompts = read_prompts(models, numbers)
    claims: dict[int, Claim] = {}
    limit = trio.CapacityLimiter(at_once)

    async def answer(number: int, prompt: tuple[int, ...]) -> None:
        async with limit:
            claims[number] = await _answer(client, prover.way, prompt, seed_of(number))

    async with trio.open_nursery() as nursery:
        for number, prompt in zip(numbers, prompts, strict=True):
            nursery.start_soon(answer, number, prompt)
    return [claims[number] for number in numbers]


async def _answer(client: EngineClient, way: Way, prompt: tuple[int, ...], seed: int) -> Claim:
    skipped = {Way.SKIPS_8: 8, Way.SKIPS_32: PROMPT_TOKENS // 2}.get(way, 0)
    read = (*(FILLER,) * skipped, *prompt[skipped:])
    drawn_seed = seed + 1 if way is Way.WRONG_SEED else seed
    temperature = {Way.GREEDY: 0, Way.COOLER: 900}.get(way, 1000)
    reply = await client._post(
        "/v1/completions",
        {
            "prompt": list(read),
            "max_tokens": ANSWER_TOKENS,
            "ignore_eos": True,
            **draw_fields(SamplingParameters(temperature_milli=temperature), drawn_seed, DrawStyle.PLUGIN),
            "logprobs": CLAIMED_TOP,
            "return_tokens_as_token_ids": True,
        },
    )
    logprobs = reply["choices"][0]["logprobs"]
    tops = tuple(dict(list(read_candidates(top).items())[:CLAIMED_TOP]) for top in logprobs["top_logprobs"])
    return Claim(prompt, seed, tuple(read_token_id(word) for word in logprobs["tokens"]), tops)


def write_claims(claims: Sequence[Claim], file: Path) -> None:
    """Write claims to a file, log-probabilities in millionths as receipts have them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    document = [
        {
            "prompt": claim.prompt,
            "seed": claim.seed,
            "tokens": claim.tokens,
            "tops": [[[token, round(value * MICRO)] for token, value in top.items()] for top in claim.tops],
        }
        for claim in claims
    ]
    begun = file.with_suffix(".begun")
    begun.write_text(json.dumps(document, separators=(",", ":")))
    begun.rename(file)  # a run that is cut off leaves no half of it


def read_claims(file: Path) -> list[Claim]:
    """Read what `write_claims` wrote."""
    return [
        Claim(
            tuple(entry["prompt"]),
            entry["seed"],
            tuple(entry["tokens"]),
            tuple({token: value / MICRO for token, value in top} for top in entry["tops"]),
        )
        for entry in json.loads(file.read_text())
    ]
