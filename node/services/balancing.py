"""Which of a participant's ML nodes takes a request, whether one may wait at all, and who is next: pure decisions.

Work is counted in output tokens; reading a prompt is worth some of them. A node's speed is that of all its places
together, so work divided by speed is the time until its engine is through with it.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

PROMPT_TOKENS_PER_OUTPUT_TOKEN = 8
"""A prefill reads tokens side by side: measured at 64 sequences it costs a third to a tenth of writing as many."""
PREFIX_BLOCK_TOKENS = 64
"""Prefixes are compared in blocks: engines cache them so too (in 16 and more)."""
PREFIX_BLOCKS_MAX = 1024
"""Blocks of one prompt that are looked at."""

Item = TypeVar("Item", bound=Hashable)
Payer = TypeVar("Payer", bound=Hashable)


@dataclass(frozen=True, slots=True)
class NodeLoad:
    """How one ML node stands, as far as a decision needs it."""

    places: int
    """Requests that run at once."""
    running: int
    tokens_left: int
    """Work that is left of those that run, by estimate."""
    tokens_per_second: float
    """Of all places together; above 0."""
    known_prefix_tokens: int
    """Tokens at the prompt's beginning that the engine has read lately."""


@dataclass(frozen=True, slots=True)
class LineState:
    """How a model's waiting line stands when a request wants to join it."""

    waiting: int
    waiting_of_payer: int
    waiting_tokens: int
    """Work that waits, by estimate."""
    running_tokens: int
    places: int
    tokens_per_second: float


def work_tokens(prompt_tokens: int, output_tokens: int) -> int:
    """Return the work of an answer."""
    return output_tokens + -(-prompt_tokens // PROMPT_TOKENS_PER_OUTPUT_TOKEN)


def choose(nodes: Sequence[NodeLoad], prompt_tokens: int) -> int | None:
    """Return the index of the node that would be through first; None if no node has a place.

    What a node need not read again counts for it, so a conversation stays where it began until that node is busier by
    more than the reading. Equal nodes: the one with fewer requests, then the first.
    """
    costs = [
        (
            (node.tokens_left + work_tokens(max(0, prompt_tokens - node.known_prefix_tokens), 0))
            / node.tokens_per_second,
            node.running,
            index,
        )
        for index, node in enumerate(nodes)
        if node.running < node.places
    ]
    return min(costs)[2] if costs else None


def expected_wait_seconds(line: LineState) -> float:
    """Return when a request that joins the line now may begin: when what waits is through and a place is free."""
    if line.places == 0:
        return float("inf")
    return (line.waiting_tokens + line.running_tokens / line.places) / line.tokens_per_second


def admit(line: LineState, *, waiting_max: int, wait_seconds_max: float) -> float | None:
    """Return None if a request may join the line, or the seconds after which there may be room.

    A payer may hold no more of the line than is left of it: one that floods it leaves room for every other.
    """
    seconds = expected_wait_seconds(line)
    has_room = line.waiting_of_payer < waiting_max - line.waiting
    if has_room and seconds <= wait_seconds_max:
        return None
    return max(seconds - wait_seconds_max, seconds / (line.waiting + 1))


def prefix_blocks(token_ids: Sequence[int]) -> list[int]:
    """Return a running hash for each whole block at the beginning of a prompt.

    Python's own hash: a collision, even a forged one, only misleads the choice between nodes of one owner.
    """
    hashes: list[int] = []
    running = 0
    end = min(len(token_ids) // PREFIX_BLOCK_TOKENS, PREFIX_BLOCKS_MAX) * PREFIX_BLOCK_TOKENS
    for start in range(0, end, PREFIX_BLOCK_TOKENS):
        running = hash((running, *token_ids[start : start + PREFIX_BLOCK_TOKENS]))
        hashes.append(running)
    return hashes


class FairLine(Generic[Payer, Item]):
    """A waiting line that is fair between payers: start-time fair queueing over their work.

    Each request starts where its payer's last one ends, but not before the time of the line; the earliest start is
    next. So payers that want more than there is get equal shares of work, however many requests they have waiting, and
    nobody saves up a claim while away. Within one payer it is first come, first served.
    """

    def __init__(self) -> None:
        self._now = 0
        """Start of the request that was taken last."""
        self._ends: dict[Payer, int] = {}
        """Where each payer's next request starts; those before `_now` are forgotten."""
        self._waiting: dict[Item, tuple[int, int, Payer, int]] = {}
        """(start, number, payer, work)."""
        self._number = 0

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    @property
    def payers_known(self) -> int:
        """Size of the books: payers that wait or had more than their share lately."""
        return len(self._ends)

    @property
    def work(self) -> int:
        """Work that waits."""
        return sum(work for *_, work in self._waiting.values())

    def count_of(self, payer: Payer) -> int:
        """Requests of `payer` that wait."""
        return sum(owner == payer for _, _, owner, _ in self._waiting.values())

    def join(self, item: Item, payer: Payer, work: int) -> None:
        """Put a request in line."""
        start = max(self._now, self._ends.get(payer, 0))
        self._number += 1
        self._waiting[item] = (start, self._number, payer, work)
        self._ends[payer] = start + work

    def leave(self, item: Item) -> None:
        """Take out a request that no longer wants to wait; its payer is not charged for it."""
        found = self._waiting.pop(item, None)
        if found is not None:
            self.correct(found[2], -found[3])

    def first(self) -> Item | None:
        """Return who is next; it stays in line."""
        return min(self._waiting, key=lambda item: self._waiting[item][:2]) if self._waiting else None

    def take(self, item: Item) -> None:
        """Let `item` go ahead."""
        start, *_ = self._waiting.pop(item)
        self._advance(start)

    def pass_by(self, payer: Payer, work: int) -> None:
        """A request of `payer` goes ahead without waiting: it counts all the same."""
        start = max(self._now, self._ends.get(payer, 0))
        self._ends[payer] = start + work
        self._advance(start)

    def correct(self, payer: Payer, difference: int) -> None:
        """A request of `payer` was `difference` more work than was thought when it joined."""
        end = max(self._now, self._ends.get(payer, self._now)) + difference
        if end > self._now:
            self._ends[payer] = end
        else:
            self._ends.pop(payer, None)

    def _advance(self, start: int) -> None:
        self._now = max(self._now, start)
        self._ends = {payer: end for payer, end in self._ends.items() if end > self._now}
