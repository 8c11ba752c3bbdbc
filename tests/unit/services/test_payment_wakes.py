"""An answer that another has paid for tells its executor, whatever its own task does at that moment."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from node.protocol.codec import from_bytes
from node.services.frames import Payment
from tests.unit.services.scripted import CHAT, Part, install
from tests.unit.services.serving_network import GATEWAY, UNIT, UNPAID_TOKENS_MAX, ServingNetwork, serving_network

STEP_TOKENS = UNPAID_TOKENS_MAX // 2
MOMENT_SECONDS = 0.5
"""Longer than a round, shorter than anybody's patience."""

FUNDING_SECONDS_MAX = 30.0


@dataclass
class Heard:
    """An answer as its executor sees it."""

    part: Part
    paid: list[int] = field(default_factory=list)
    """What each payment said was paid in all."""

    def price(self, tokens: int) -> int:
        return (len(self.part.prompt_ids) + tokens) * UNIT


class Disk:
    """The gateway's disk: each wait for it takes what the test has put here, later ones nothing."""

    def __init__(self) -> None:
        self.waits: list[trio.Event] = []
        self.begun = 0

    async def durable(self) -> None:
        self.begun += 1
        if self.waits:
            await self.waits.pop(0).wait()


async def one_that_gives_nothing_unasked(network: ServingNetwork) -> list[Heard]:
    """Have the executor open each call and then write down its payments; return what it wrote. The prompts of all but
    the first take all that may be unpaid: they are paid at once.
    """
    calls: list[Heard] = []

    async def script(part: Part) -> None:
        heard = Heard(part)
        length = UNPAID_TOKENS_MAX if calls else 1
        calls.append(heard)
        await part.open(prompt_ids=part.prompt_ids * length)
        while True:
            heard.paid.append(from_bytes(Payment, await part.call.receive()).paid)

    install(network, 1, script)
    return calls


async def until(holds: Callable[[], bool]) -> None:
    """Wait for the chain to fund a channel, and the like."""
    with trio.fail_after(FUNDING_SECONDS_MAX):
        while not holds():
            await trio.sleep(MOMENT_SECONDS)


async def ask_and_wait(network: ServingNetwork, scope: trio.CancelScope) -> None:
    with scope:
        async with network.gateway.ask(CHAT) as answer:
            async for _ in answer:
                pass


@pytest.mark.parametrize("is_signer_lost", [False, True])
async def test_who_is_paid_by_another_while_it_waits_for_the_disk_tells_its_executor(
    autojump_clock: trio.testing.MockClock, is_signer_lost: bool
) -> None:
    """Its next step has come due meanwhile: it has a round of its own to wait for, which is over when it looks."""
    async with serving_network(executors=1) as network, trio.open_nursery() as nursery:
        network.gateway._random_bytes = random.Random(3).randbytes
        disk = Disk()
        network.members[GATEWAY].store.durable = disk.durable  # type: ignore[method-assign]
        calls = await one_that_gives_nothing_unasked(network)
        one, other = trio.CancelScope(), trio.CancelScope()

        nursery.start_soon(ask_and_wait, network, one)
        await until(lambda: bool(calls and calls[0].paid))
        first = calls[0]
        assert first.paid == [first.price(0)]
        slow, of_the_other = trio.Event(), trio.Event()
        disk.waits, disk.begun = [slow, of_the_other], 0
        await first.part.give(STEP_TOKENS)
        await trio.sleep(MOMENT_SECONDS)
        assert disk.begun == 1  # it has signed for the step, and waits
        await first.part.give(STEP_TOKENS, begin=STEP_TOKENS)
        await trio.sleep(MOMENT_SECONDS)
        assert disk.begun == 1

        nursery.start_soon(ask_and_wait, network, other)  # pays for its prompt, and for all that is due
        await until(lambda: disk.begun == 2)
        if is_signer_lost:
            other.cancel()
        else:
            of_the_other.set()
        await trio.sleep(MOMENT_SECONDS)
        assert first.paid == [first.price(0)]
        slow.set()
        await trio.sleep(MOMENT_SECONDS)

        assert first.paid[-1] == first.price(2 * STEP_TOKENS)
        assert first.paid == sorted(first.paid)
        one.cancel()
        other.cancel()
