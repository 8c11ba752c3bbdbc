"""Nonces that are not what they should be: what a cheating miner computes instead of each, or that it makes it up."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from netsim.conduct import NODE_ID
from netsim.engine import VOCABULARY_SIZE, DrawingEngine
from node.ports import Chain
from node.protocol.identifiers import ZERO_HASH, Address, EpochNumber, Hash32
from node.protocol.nonces import VECTOR_DIMENSIONS, draw_sample, nonce_prompt
from node.protocol.stages import Stage, first_block_of
from node.services.broker import Broker
from node.services.brokered import BrokeredEngine
from node.services.timing import position


@dataclass(frozen=True, slots=True)
class Asked:
    """A nonce that mining asks its engine for."""

    account: Address
    epoch: EpochNumber
    seed: Hash32
    """Of the epoch's prompts: the newest block hash that the miner has."""
    nonce: int
    prompt: Sequence[int]


Forgery = Callable[[Asked], Sequence[int] | None]
"""Returns the prompt that is computed instead, or None where the vector is made up, which costs nothing."""


def made_up(per_mille: int) -> Forgery:
    """Make up so many of a thousand nonces, here and there."""

    def forge(asked: Asked) -> Sequence[int] | None:
        lot = random.Random(f"fake/{asked.account}/{asked.epoch}/{asked.nonce}").randrange(1000)
        return None if lot < per_mille else asked.prompt

    return forge


def ground(per_mille: int, nonces_max: int, sample_size: int) -> Forgery:
    """Make up so many, and put them where the draw would not look if the newest hash one knows were its seed."""

    def forge(asked: Asked) -> Sequence[int] | None:
        guessed = frozenset(draw_sample(asked.seed, asked.account, NODE_ID, nonces_max, sample_size))
        others = [nonce for nonce in range(nonces_max) if nonce not in guessed] or list(range(nonces_max))
        random.Random(f"ground/{asked.seed.hex()}").shuffle(others)
        return None if asked.nonce in others[: nonces_max * per_mille // 1000] else asked.prompt

    return forge


def replayed() -> Forgery:
    """Hand in the first epoch's nonces ever after."""
    kept: dict[int, Sequence[int]] = {}

    def forge(asked: Asked) -> Sequence[int]:
        return kept.setdefault(asked.nonce, asked.prompt)

    return forge


def precomputed(asked: Asked) -> Sequence[int]:
    """Compute ahead, for a seed that was a guess."""
    return nonce_prompt(ZERO_HASH, asked.account, NODE_ID, asked.nonce, VOCABULARY_SIZE)


def shared_with(other: Address) -> Forgery:
    """Hand in the nonces of another account of the same owner."""

    def forge(asked: Asked) -> Sequence[int]:
        return nonce_prompt(asked.seed, other, NODE_ID, asked.nonce, VOCABULARY_SIZE)

    return forge


class ForgingEngine(BrokeredEngine):
    """Mines by a forgery."""

    def __init__(self, engine: DrawingEngine, broker: Broker, chain: Chain, forgery: Forgery) -> None:
        super().__init__(engine, broker)
        self._chain = chain
        self._forgery = forgery
        self._epoch = EpochNumber(-1)
        self._next = 0

    async def prompt_logprobs(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[list[float]]:
        """Numbers for the next nonces of the epoch, in the order in which mining asks for them."""
        epoch = position(self._chain).epoch
        if epoch != self._epoch:
            self._epoch, self._next = epoch, 0
        first, self._next = self._next, self._next + len(prompts)
        seed = await self._chain.block_hash(first_block_of(epoch, Stage.GENERATE, self._chain.schedule))
        account = self._chain.account
        instead = [
            self._forgery(Asked(account, epoch, seed, nonce, prompt)) for nonce, prompt in enumerate(prompts, first)
        ]
        computed = [prompt for prompt in instead if prompt is not None]
        rows = iter(await super().prompt_logprobs(computed, priority=priority) if computed else ())
        return [
            made_up_row(f"{account}/{epoch}/{nonce}") if prompt is None else next(rows)
            for nonce, prompt in enumerate(instead, first)
        ]


def made_up_row(name: str) -> list[float]:
    """Numbers that look like log-probabilities."""
    source = random.Random(name)
    return [-10.0 * source.random() for _ in range(VECTOR_DIMENSIONS)]
