"""Checks of the chain, made directly over JSON-RPC so that they work with the daemon down.

Detail: `probe_chain` gathers facts; `judge_chain` turns them into findings and is pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import time
from typing import Any

import httpx
import trio
from pydantic_core import from_json

from node.amounts import amount_to_tokens
from node.doctor.findings import Finding, fault, ok, skipped, warning
from node.protocol.identifiers import Address

RPC_SECONDS_MAX = 5
ADVANCE_SECONDS_MAX = 15
"""How long to wait for a new block where the newest one is old: a little over Ethereum's slot time."""
FRESH_SECONDS_MAX = 30
"""A newest block younger than this shows that the chain advances; no need to wait for the next."""
SKEW_SECONDS_WARNING = 30
"""Messages carry times and expire within two minutes: a clock off by much more is not believed by peers."""
GAS_WEI_WARNING = 10**16
"""0.01 gas coins: some hundred transactions on a cheap chain, some on an expensive one."""
RESPONSE_BYTES_MAX = 4 * 1024 * 1024

CHECK_REACHABLE = "chain reachable"
CHECK_CHAIN_ID = "chain id"
CHECK_ADVANCES = "chain advances"
CHECK_CLOCK = "clock"
CHECK_CONTRACTS = "contracts"
CHECK_GAS = "gas balance"


@dataclass(frozen=True, slots=True)
class ChainFacts:
    """What an endpoint said."""

    url: str
    chain_id: int
    block_number: int
    block_time: int
    wall_time: int
    advanced: bool
    """Whether the newest block is fresh or a newer one came while waiting."""
    without_code: tuple[str, ...]
    """Names of contracts at whose address there is no code."""
    contracts: int
    """How many were looked at."""
    balance_wei: int | None
    """Of the account; None where there is no keystore to name it."""


@dataclass(frozen=True, slots=True)
class ChainUnreachable:
    """No endpoint answered: what was tried, and how each failed."""

    attempts: tuple[str, ...]


async def probe_chain(
    urls: Sequence[str], contracts: Mapping[str, Address], account: Address | None
) -> ChainFacts | ChainUnreachable:
    """Ask the first endpoint that answers."""
    attempts = []
    for url in urls:
        try:
            async with httpx.AsyncClient(timeout=RPC_SECONDS_MAX) as client:
                return await _probe(client, url, contracts, account)
        except (httpx.HTTPError, _ProbeError) as error:
            attempts.append(f"{url}: {str(error) or type(error).__name__}")
    return ChainUnreachable(tuple(attempts))


def judge_chain(facts: ChainFacts | ChainUnreachable, expected_chain_id: int, confirmations: int) -> list[Finding]:
    """Turn the facts into findings, one per check, always in the same order."""
    if isinstance(facts, ChainUnreachable):
        reason = "the chain can't be reached"
        return [
            fault(
                CHECK_REACHABLE,
                "no endpoint answers: " + "; ".join(facts.attempts),
                "Start the chain node, or correct [chain] rpc_urls. Until then nothing is earned, paid or proved.",
            ),
            *(
                skipped(check, reason)
                for check in (CHECK_CHAIN_ID, CHECK_ADVANCES, CHECK_CLOCK, CHECK_CONTRACTS, CHECK_GAS)
            ),
        ]
    return [
        ok(CHECK_REACHABLE, f"{facts.url} answers"),
        _judge_chain_id(facts, expected_chain_id),
        _judge_advance(facts, confirmations),
        _judge_clock(facts),
        _judge_contracts(facts),
        _judge_gas(facts),
    ]


def _judge_chain_id(facts: ChainFacts, expected: int) -> Finding:
    if facts.chain_id != expected:
        return fault(
            CHECK_CHAIN_ID,
            f"the endpoint is of chain {facts.chain_id}, the settings say {expected}",
            "Correct [chain] rpc_urls or chain_id: on a wrong chain every signature is worthless.",
        )
    return ok(CHECK_CHAIN_ID, str(expected))


def _judge_advance(facts: ChainFacts, confirmations: int) -> Finding:
    if not facts.advanced:
        return fault(
            CHECK_ADVANCES,
            f"still at block {facts.block_number}, {facts.wall_time - facts.block_time} s old",
            "The chain node has stopped or lost its peers: restart it, or use another endpoint.",
        )
    if facts.block_number < confirmations:
        return warning(CHECK_ADVANCES, f"only {facts.block_number} blocks so far", "Wait for the first blocks.")
    return ok(CHECK_ADVANCES, f"block {facts.block_number}")


def _judge_clock(facts: ChainFacts) -> Finding:
    if not facts.advanced:
        return skipped(CHECK_CLOCK, "an advancing chain is needed to compare with")
    skew = facts.wall_time - facts.block_time
    if abs(skew) > SKEW_SECONDS_WARNING:
        direction = "ahead of" if skew > 0 else "behind"
        return warning(
            CHECK_CLOCK,
            f"this machine is {abs(skew)} s {direction} the newest block",
            "Set the clock (NTP): peers ignore messages with wrong times, and you earn nothing.",
        )
    return ok(CHECK_CLOCK, f"{skew:+d} s from the newest block")


def _judge_contracts(facts: ChainFacts) -> Finding:
    if facts.contracts == 0:
        return skipped(CHECK_CONTRACTS, "there is no deployment file to name them")
    if facts.without_code:
        return fault(
            CHECK_CONTRACTS,
            f"no code at the address of {', '.join(facts.without_code)}",
            "The deployment file is of another chain, or the chain was reset: get the right one from the network.",
        )
    return ok(CHECK_CONTRACTS, f"all {facts.contracts} have code")


def _judge_gas(facts: ChainFacts) -> Finding:
    if facts.balance_wei is None:
        return skipped(CHECK_GAS, "there is no keystore to name the account")
    coins = amount_to_tokens(facts.balance_wei)
    if facts.balance_wei == 0:
        return fault(CHECK_GAS, "the account has no gas coins", "Send it some: without gas nothing can be committed.")
    if facts.balance_wei < GAS_WEI_WARNING:
        return warning(CHECK_GAS, f"{coins} gas coins", "Send the account some more before it runs dry.")
    return ok(CHECK_GAS, f"{coins} gas coins")


class _ProbeError(Exception):
    pass


async def _probe(
    client: httpx.AsyncClient, url: str, contracts: Mapping[str, Address], account: Address | None
) -> ChainFacts:
    chain_id = _number(await _call(client, url, "eth_chainId"))
    number, block_time = await _newest_block(client, url)
    advanced = time() - block_time <= FRESH_SECONDS_MAX
    if not advanced:
        with trio.move_on_after(ADVANCE_SECONDS_MAX):
            while not advanced:
                await trio.sleep(1)
                newer, block_time = await _newest_block(client, url)
                advanced, number = newer > number, newer
    without_code = [
        name
        for name, address in contracts.items()
        if await _call(client, url, "eth_getCode", address, "latest") in ("0x", None)
    ]
    return ChainFacts(
        url=url,
        chain_id=chain_id,
        block_number=number,
        block_time=block_time,
        wall_time=int(time()),
        advanced=advanced,
        without_code=tuple(without_code),
        contracts=len(contracts),
        balance_wei=_number(await _call(client, url, "eth_getBalance", account, "latest")) if account else None,
    )


async def _newest_block(client: httpx.AsyncClient, url: str) -> tuple[int, int]:
    block = await _call(client, url, "eth_getBlockByNumber", "latest", False)
    if not isinstance(block, dict):
        raise _ProbeError("the newest block is no object")
    return _number(block.get("number")), _number(block.get("timestamp"))


async def _call(client: httpx.AsyncClient, url: str, method: str, *params: object) -> Any:
    response = await client.post(url, json={"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    if len(response.content) > RESPONSE_BYTES_MAX:
        raise _ProbeError(f"{method}: the answer is larger than {RESPONSE_BYTES_MAX} bytes")
    if response.status_code != httpx.codes.OK:
        raise _ProbeError(f"{method}: HTTP {response.status_code}")
    try:
        answer = from_json(response.content)
    except ValueError as error:
        raise _ProbeError(f"{method}: the answer is not JSON") from error
    if not isinstance(answer, dict) or "result" not in answer:
        raise _ProbeError(f"{method}: {str(answer)[:200]}")
    return answer["result"]


def _number(value: object) -> int:
    if not isinstance(value, str):
        raise _ProbeError(f"expected a number, got {str(value)[:50]}")
    try:
        return int(value, 16)
    except ValueError as error:
        raise _ProbeError(f"expected a number, got {value[:50]}") from error
