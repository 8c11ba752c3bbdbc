"""How many sources a fetch asks at once: as many as help, and no more.

Purpose: blocks are hashed and written by threads of ours. If those have something to do nearly all the time, another
source brings nothing and costs its server and us; if they wait, each may bring as much as the first.

Detail: as soon as our threads are at work, one is to suffice (one of the fast ones, by lot) and the others rest. If
the threads wait then, all are asked, and next time one more is tried. What was found is forgotten after some seconds,
and everything begins anew: sources change, and nobody stays the only one for long by being just fast enough. Where
fewer sources would have fewer threads, as on many cores, all are asked.
"""

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

CORES = os.cpu_count() or 1
THREADS_MAX = max(3, CORES)
"""Of one fetch, while each source has one: threads that hash want a core each, and on few cores one waits for a disk or
a line."""
INTERVAL_SECONDS = 0.025
"""Between decisions: some twenty blocks of a fast fetch. A turn of the event loop each, which is a thousandth of it."""
ENOUGH = 0.8
"""Of their time our threads are at work, or they wait for sources. A source that gives just so much and is asked alone
keeps a fetch from being faster by a quarter, until the next review. Threads that never wait are at 0.9 or more; where
they wait a fifth of the time, cores are free, the work itself is faster, and they are well below this."""
REVIEW_SECONDS = 10.0
"""After these all sources are asked again and the lot is drawn anew: of the time of a fetch, trials take a hundredth at
worst."""
FAST_PART = 2
"""A source that gave less than the best divided by this is not drawn as long as there are others."""


@dataclass(frozen=True, slots=True)
class Breadth:
    """What a fetch has found out about how many sources it needs."""

    too_few: int = 0
    """The most with which its threads waited."""
    busy: float = 1.0
    """The part of the last interval that they were at work. Two are looked at together: a line may come in gusts, but
    whoever gives much in every other interval only, to be asked alone, is found out."""
    is_settling: bool = False
    """The number has just been changed: what is seen first is of both."""
    seconds: float = 0.0
    """Since all of this was last forgotten."""


@dataclass(frozen=True, slots=True)
class Interval:
    """What was seen since the last decision."""

    seconds: float
    asked: int
    """Sources that were asked for fresh blocks."""
    able: int
    """Sources that could be."""
    least: int
    """Sources that have as many threads as all of them."""
    busy: float
    """The part of the time that as many threads as can work at once were at work; over 1 where more share the cores."""

    @property
    def is_busy(self) -> bool:
        """Whether our threads had enough to do."""
        return self.busy >= ENOUGH


def decide(known: Breadth, seen: Interval) -> tuple[Breadth, int]:
    """Return what is known now and how many sources to ask from here on, at least one if any is able."""
    now = replace(known, seconds=known.seconds + seen.seconds, is_settling=False)
    if now.seconds >= REVIEW_SECONDS:
        return Breadth(is_settling=seen.asked < seen.able), seen.able
    if known.is_settling:
        return now, seen.asked
    busy = min(seen.busy, 1.0)
    is_waiting = (known.busy + busy) / 2 < ENOUGH
    if is_waiting and seen.asked < seen.able:
        return replace(now, too_few=max(now.too_few, seen.asked), busy=1.0, is_settling=True), seen.able
    suffice = max(now.too_few + 1, seen.least)
    if not is_waiting and seen.is_busy and suffice < seen.asked:
        return replace(now, busy=1.0, is_settling=True), suffice
    return replace(now, busy=busy), seen.asked


def draw(given: Sequence[int], count: int) -> list[int]:
    """Return whom to keep asking: `count` places in `given`, the bytes that each source gave lately.

    By lot among those that gave about as much as the best, so that over many fetches equal servers serve equally;
    then, if there are too few of those, whoever gave most.
    """
    order = sorted(range(len(given)), key=lambda place: given[place], reverse=True)
    fast = [place for place in order if given[place] * FAST_PART >= given[order[0]]]
    if len(fast) > count:
        return secrets.SystemRandom().sample(fast, count)
    return order[:count]


def threads_each(sources: int, threads_max: int) -> int:
    """Return how many threads each of so many sources may have, which takes at most `threads_max`, and at least one."""
    return min(threads_max, max(1, THREADS_MAX // max(1, sources)))


def hands(sources: int, threads_max: int) -> int:
    """Return how many threads of so many sources, which take at most `threads_max` each, can work at once."""
    return min(CORES, sources * threads_each(sources, threads_max))


def least_with_all_hands(able: int, threads_max: int) -> int:
    """Return how few of the sources that are able can have as many threads at work as all of them."""
    wanted = hands(able, threads_max)
    return next((count for count in range(1, able) if hands(count, threads_max) >= wanted), able)
