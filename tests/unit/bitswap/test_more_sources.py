"""Sources beyond gateways: a search is bounded, remembered for a while, and never what a fetch fails of."""

from collections.abc import Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from p2p.content.cid import Cid, Codec
from p2p.content.more_sources import (
    BITSWAP_SOURCES_MAX,
    FIND_SECONDS_MAX,
    FOUND_MAX,
    FOUND_SECONDS,
    NOT_FOUND_SECONDS,
    WEB_GATEWAYS_MAX,
    MoreSources,
)

ROOT = Cid.of(Codec.RAW, b"root")


class Speakers:
    """Bitswap as far as it is asked here."""

    def __init__(self, *peers: str) -> None:
        self._peers = peers

    def speakers(self) -> tuple[str, ...]:
        return self._peers


def sources(*peers: str, **options: Any) -> MoreSources:
    bitswap: Any = Speakers(*peers)
    return MoreSources(bitswap=bitswap, **options)


async def names(asked: MoreSources, root: Cid = ROOT) -> list[str]:
    return [source.name for source in await asked(root)]


async def test_found_peers_come_before_those_that_are_merely_connected() -> None:
    async def find(_root: Cid) -> Sequence[str]:
        return ["found", "both"]

    asked = sources("both", "other", find_peers=find, web_gateways=["https://gateway.example"])
    assert await names(asked) == ["found", "both", "other", "https://gateway.example"]


async def test_there_are_never_more_than_so_many() -> None:
    asked = sources(*map(str, range(100)), web_gateways=[f"https://{number}.example" for number in range(20)])
    assert len(await names(asked)) == BITSWAP_SOURCES_MAX + WEB_GATEWAYS_MAX


async def test_a_search_that_takes_too_long_or_fails_costs_only_what_it_would_have_found(
    autojump_clock: MockClock,
) -> None:
    async def find_forever(_root: Cid) -> Sequence[str]:
        await trio.sleep_forever()

    async def fail(_root: Cid) -> Sequence[str]:
        raise RuntimeError("no network")

    started = trio.current_time()
    assert await names(sources("connected", find_peers=find_forever)) == ["connected"]
    assert trio.current_time() - started == pytest.approx(FIND_SECONDS_MAX)
    assert await names(sources("connected", find_peers=fail)) == ["connected"]


async def test_a_search_is_repeated_only_after_a_while_and_not_all_are_remembered(autojump_clock: MockClock) -> None:
    searched: list[Cid] = []

    async def find(root: Cid) -> Sequence[str]:
        searched.append(root)
        return ["found"]

    asked = sources(find_peers=find)
    for _ in range(3):
        assert await names(asked) == ["found"]
    assert len(searched) == 1
    await trio.sleep(FOUND_SECONDS + 1)
    await names(asked)
    assert len(searched) == 2
    for number in range(FOUND_MAX + 1):
        await names(asked, Cid.of(Codec.RAW, number.to_bytes(4)))
    await names(asked)
    assert len(searched) == 2 + FOUND_MAX + 2


async def test_a_search_in_vain_is_repeated_sooner(autojump_clock: MockClock) -> None:
    found: list[str] = []

    async def find(_root: Cid) -> Sequence[str]:
        return list(found)

    asked = sources(find_peers=find)
    assert await names(asked) == []
    found.append("late")
    assert await names(asked) == []
    await trio.sleep(NOT_FOUND_SECONDS + 1)
    assert await names(asked) == ["late"]


async def test_a_gateway_that_cannot_be_used_is_left_out() -> None:
    assert await names(sources(web_gateways=["https://\udcff", "https://gateway.example"])) == [
        "https://gateway.example"
    ]
