"""The Engine port of simulated nodes: a deterministic stand-in for a language model, honest or not.

Log-probabilities are a hash of (model, tokens before, token): any honest engine computes nearly the same, and no
cheaper way leads to them. `noise` stands for differing hardware; a cheat's engine runs another `weights`.
"""

import functools
import hashlib
import math
import random
import struct
from array import array
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from netsim.ticks import sleep
from node.ports import ChatMessage, EngineRefusedError, GenerationChunk, GenerationRequest
from node.protocol.draws import Drawn, Prefill, temperature_of
from node.protocol.identifiers import ModelId, NodeId
from node.protocol.noise import noise

VOCABULARY_SIZE = 3072
SECONDS_PER_TOKEN = 0.02
PROMPTS_PER_SECOND = 300
"""Nonces per second of a tiny model on a CPU (facts: 286 to 404)."""
TOKENS_PER_CHUNK = 4
CAUSAL_BLOCK = 64
"""Tokens that are simulated together: what follows them changes nothing about them, as in a real model. The length of a
nonce's prompt, so that a tail leaves the nonce as it was."""
DIMENSIONS = 16
"""Of its vectors."""
CANDIDATES = 12
"""Tokens that a DrawingEngine may draw at one place."""
UNKNOWN_LOGPROB = -20.0
"""Of a token that is none of them."""
NOISE_PLACES = 2048
"""Where noise may begin: to draw new noise for every prompt takes longer than all that nodes do with it."""
LOGPROB_UNIT = -10.0 / 2**64
"""Log-probabilities lie between -10 and 0, but for noise."""
HARDWARE_KINDS = 4
"""Engines of one kind give the same numbers, as machines of one kind do. Each engine's seed says of which it is."""
NOISES_KEPT = 256
"""By kind and deviation, at 17 kB."""


@dataclass(slots=True)
class SimulatedEngine:
    """One ML node."""

    node_id: NodeId
    model_id: ModelId | None
    weights: str
    """What the engine really runs; honest engines of one model all have the same text here."""
    noise: float
    """Standard deviation added to each log-probability."""
    seed: int

    @property
    def vocabulary_size(self) -> int:
        """Token ids of the simulated model."""
        return VOCABULARY_SIZE

    async def render_chat(self, messages: Sequence[ChatMessage], tools: str = "") -> tuple[int, ...]:
        """One token per word, by hash."""
        return await self.tokenize(" ".join(f"{message.role} {message.content}" for message in messages) + tools)

    async def tokenize(self, text: str) -> tuple[int, ...]:
        """One token per word, by hash."""
        await trio.lowlevel.checkpoint()
        words = text.split()
        return tuple(int.from_bytes(hashlib.sha256(word.encode()).digest()[:4]) % VOCABULARY_SIZE for word in words)

    @asynccontextmanager
    async def generate(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[GenerationChunk]]:
        """Tokens that follow from the weights, the seed and everything before them, whoever generates them."""
        if not request.prompt_ids:
            raise EngineRefusedError("empty prompt")
        yield self._tokens(request)

    async def _tokens(self, request: GenerationRequest) -> AsyncIterator[GenerationChunk]:
        context = list(request.prompt_ids)
        left = request.max_tokens
        while left:
            count = min(TOKENS_PER_CHUNK, left)
            await trio.sleep(count * SECONDS_PER_TOKEN)
            fresh = []
            for _ in range(count):
                state = f"{self.weights}/{request.seed}/{context}".encode()
                fresh.append(int.from_bytes(hashlib.sha256(state).digest()[:4]) % VOCABULARY_SIZE)
                context.append(fresh[-1])
            left -= count
            text = "".join(f" w{token}" for token in fresh)
            yield GenerationChunk(tuple(fresh), text, None if left else "length")

    async def prompt_logprobs(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[list[float]]:
        """Pseudo-random but reproducible log-probabilities, plus this hardware's noise."""
        del priority  # one simulated engine does one thing at a time
        await sleep(len(prompts) / PROMPTS_PER_SECOND)
        return [self._logprobs(prompt) for prompt in prompts]

    async def embed(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[bytes]:
        """Vectors that follow from the weights and the prompt."""
        del priority
        await sleep(len(prompts) / PROMPTS_PER_SECOND)
        return [self._vector(prompt) for prompt in prompts]

    def _vector(self, prompt: Sequence[int]) -> bytes:
        numbers = random.Random(f"{self.weights}/vector/{list(prompt)}")
        return struct.pack(f"<{DIMENSIONS}f", *(numbers.gauss(0.0, 1.0) for _ in range(DIMENSIONS)))

    def _logprobs(self, prompt: Sequence[int]) -> list[float]:
        hardware = self.seed % HARDWARE_KINDS
        values = list(block_logprobs(self.weights, hardware, self.noise, tuple(prompt[:CAUSAL_BLOCK])))
        for end in range(2 * CAUSAL_BLOCK, len(prompt) + CAUSAL_BLOCK, CAUSAL_BLOCK):
            values += logprobs_after(self.weights, hardware, self.noise, tuple(prompt[:end]), end - CAUSAL_BLOCK)
        return values


def block_logprobs(weights: str, hardware: int, deviation: float, tokens: tuple[int, ...]) -> tuple[float, ...]:
    """Return the log-probabilities of the first CAUSAL_BLOCK tokens: of a nonce, which many compute."""
    return logprobs_after(weights, hardware, deviation, tokens, 1)


def logprobs_after(
    weights: str, hardware: int, deviation: float, tokens: tuple[int, ...], first: int
) -> tuple[float, ...]:
    """Return the log-probabilities of `tokens` from the place `first` on, at most CAUSAL_BLOCK."""
    text, count = weights.encode() + struct.pack(f"<{len(tokens)}I", *tokens), len(tokens) - first
    if count <= 0:
        return ()
    drawn, *numbers = struct.unpack(f"<{1 + count}Q", hashlib.shake_256(text).digest(8 * (1 + count)))
    start, noise_of = drawn % NOISE_PLACES, hardware_noise(hardware, deviation)
    return tuple(number * LOGPROB_UNIT + noise_of[start + place] for place, number in enumerate(numbers))


@functools.lru_cache(maxsize=NOISES_KEPT)
def hardware_noise(hardware: int, deviation: float) -> "array[float]":
    """Return what the numbers of a kind of engine differ by: drawn once, and taken from some place on for a prompt."""
    drawn = random.Random(f"{hardware}/noise")
    return array("d", (drawn.gauss(0.0, deviation) for _ in range(NOISE_PLACES + CAUSAL_BLOCK)))


@dataclass(slots=True)
class DrawingEngine(SimulatedEngine):
    """A simulated engine that draws by the network's rule, so that its answers can be audited.

    At each place it knows CANDIDATES tokens, with logits that follow from the weights and everything before.
    """

    answers_with: str = ""
    """What users are answered with, if not the weights that it proves and audits with."""

    async def _tokens(self, request: GenerationRequest) -> AsyncIterator[GenerationChunk]:
        context = list(request.prompt_ids)
        left = request.max_tokens
        while left:
            count = min(TOKENS_PER_CHUNK, left)
            await trio.sleep(count * SECONDS_PER_TOKEN)
            fresh = []
            for _ in range(count):
                token = self._drawn(context, request)
                fresh.append(token)
                context.append(token)
            left -= count
            text = "".join(f" w{token}" for token in fresh)
            yield GenerationChunk(tuple(fresh), text, None if left else "length")

    async def prefill(
        self, token_ids: Sequence[int], first: int, *, top: int, priority: int, drawn: Drawn | None = None
    ) -> list[Prefill]:
        """What this engine's weights say of tokens that somebody claims: of all that may come, so winners are known."""
        del top, priority, drawn
        await trio.sleep(1 / PROMPTS_PER_SECOND)
        return list(prefills_of(self.weights, self.seed % HARDWARE_KINDS, self.noise, tuple(token_ids), first))

    def _drawn(self, context: Sequence[int], request: GenerationRequest) -> int:
        known = self._answering(context)
        if request.sampling.temperature_milli == 0:
            return max(known, key=lambda token: (known[token], -token))
        temperature, position = temperature_of(request.sampling), len(context) - 1
        scores = {token: value / temperature + noise(request.seed, position, token) for token, value in known.items()}
        return max(scores, key=lambda token: (scores[token], -token))

    def _answering(self, context: Sequence[int]) -> dict[int, float]:
        """What users' tokens are drawn from."""
        return self._candidates(self.answers_with or self.weights, context)

    def _candidates(self, weights: str, context: Sequence[int]) -> dict[int, float]:
        """Log-probabilities of the tokens that may come next, with this hardware's noise."""
        return next_logprobs(weights, self.seed % HARDWARE_KINDS, self.noise, context)


def next_logprobs(weights: str, hardware: int, deviation: float, context: Sequence[int]) -> dict[int, float]:
    """Return the log-probabilities of the CANDIDATES tokens that may follow `context`, on a kind of hardware."""
    text = f"{weights}/{hashlib.sha256(str(list(context)).encode()).hexdigest()}"
    exact = random.Random(text)
    noise_of = random.Random(f"{hardware}/{text}")
    tokens = exact.sample(range(VOCABULARY_SIZE), CANDIDATES)
    logits = [3.0 * exact.random() + noise_of.gauss(0.0, deviation) for _ in tokens]
    total = math.log(math.fsum(math.exp(logit) for logit in logits))
    return {token: logit - total for token, logit in zip(tokens, logits, strict=True)}


def prefills_of(
    weights: str, hardware: int, deviation: float, token_ids: tuple[int, ...], first: int
) -> tuple[Prefill, ...]:
    """Return what a prefill tells of the tokens from the place `first` on: of an answer, which many judge again."""
    found = []
    for place in range(first, len(token_ids)):
        known = next_logprobs(weights, hardware, deviation, token_ids[:place])
        found.append(Prefill({token_ids[place]: UNKNOWN_LOGPROB, **known}, len(known)))
    return tuple(found)
