"""The doctor's checks of the chain: each fault is named, and nothing else is."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest
import trio
import trio.testing

import node.doctor.chain
from node.doctor.chain import (
    CHECK_ADVANCES,
    CHECK_CHAIN_ID,
    CHECK_CLOCK,
    CHECK_CONTRACTS,
    CHECK_GAS,
    CHECK_REACHABLE,
    ChainFacts,
    ChainUnreachable,
    judge_chain,
    probe_chain,
)
from node.doctor.findings import Severity, has_fault
from node.protocol.identifiers import Address

GOOD = ChainFacts(
    url="http://chain",
    chain_id=31337,
    block_number=100,
    block_time=1_000_000,
    wall_time=1_000_001,
    advanced=True,
    without_code=(),
    contracts=8,
    balance_wei=10**18,
)


def judged(facts: ChainFacts | ChainUnreachable) -> dict[str, Severity]:
    return {finding.check: finding.severity for finding in judge_chain(facts, 31337, 2)}


def test_a_good_chain_has_no_finding_but_ok() -> None:
    assert set(judged(GOOD).values()) == {Severity.OK}


@pytest.mark.parametrize(
    ("facts", "check", "severity"),
    [
        (replace(GOOD, chain_id=1), CHECK_CHAIN_ID, Severity.FAULT),
        (replace(GOOD, advanced=False), CHECK_ADVANCES, Severity.FAULT),
        (replace(GOOD, block_number=1), CHECK_ADVANCES, Severity.WARNING),
        (replace(GOOD, wall_time=1_000_031), CHECK_CLOCK, Severity.WARNING),
        (replace(GOOD, wall_time=999_969), CHECK_CLOCK, Severity.WARNING),
        (replace(GOOD, wall_time=1_000_030), CHECK_CLOCK, Severity.OK),
        (replace(GOOD, advanced=False, wall_time=2_000_000), CHECK_CLOCK, Severity.SKIPPED),
        (replace(GOOD, without_code=("EpochManager",)), CHECK_CONTRACTS, Severity.FAULT),
        (replace(GOOD, contracts=0), CHECK_CONTRACTS, Severity.SKIPPED),
        (replace(GOOD, balance_wei=0), CHECK_GAS, Severity.FAULT),
        (replace(GOOD, balance_wei=10**15), CHECK_GAS, Severity.WARNING),
        (replace(GOOD, balance_wei=None), CHECK_GAS, Severity.SKIPPED),
    ],
)
def test_each_fault_is_found_where_it_lies(facts: ChainFacts, check: str, severity: Severity) -> None:
    assert judged(facts)[check] is severity


def test_whatever_is_not_ok_says_what_to_do() -> None:
    facts = replace(GOOD, chain_id=1, without_code=("X",), balance_wei=0, wall_time=2_000_000)
    for finding in judge_chain(facts, 31337, 2):
        assert finding.remedy or finding.severity in (Severity.OK, Severity.SKIPPED)


async def test_a_stopped_chain_is_named_and_the_rest_is_skipped() -> None:
    facts = await probe_chain(["http://127.0.0.1:1"], {}, None)
    findings = judge_chain(facts, 31337, 2)
    assert has_fault(findings)
    assert findings[0].check == CHECK_REACHABLE
    assert "http://127.0.0.1:1" in findings[0].message
    assert {finding.severity for finding in findings[1:]} == {Severity.SKIPPED}


Answer = Callable[[str, list[Any]], Any]


def with_answers(monkeypatch: pytest.MonkeyPatch, answer: Answer) -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        call = json.loads(request.content)
        result = answer(call["method"], call["params"])
        if isinstance(result, httpx.Response):
            return result
        return httpx.Response(200, json={"jsonrpc": "2.0", "id": 1, "result": result})

    real = httpx.AsyncClient
    monkeypatch.setattr(
        httpx,
        "AsyncClient",
        lambda **options: real(transport=httpx.MockTransport(handle), **options),
    )


async def test_an_old_block_followed_by_a_new_one_shows_that_the_chain_advances(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    height = 10

    def answer(method: str, params: list[Any]) -> Any:
        nonlocal height
        if method == "eth_getBlockByNumber":
            height += trio.current_time() > 3
            return {"number": hex(height), "timestamp": "0x10"}
        return {"eth_chainId": "0x1", "eth_getBalance": "0x5", "eth_getCode": "0x" if "0xb" in params else "0x60"}[
            method
        ]

    with_answers(monkeypatch, answer)
    contracts = {"A": Address("0xa"), "B": Address("0xb")}
    facts = await probe_chain(["http://chain"], contracts, Address("0xc"))
    assert isinstance(facts, ChainFacts)
    assert facts.advanced
    assert facts.without_code == ("B",)
    assert facts.balance_wei == 5


async def test_a_chain_that_stands_still_is_waited_for_no_longer_than_the_limit(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    with_answers(
        monkeypatch,
        lambda method, _: {"number": "0xa", "timestamp": "0x10"} if method == "eth_getBlockByNumber" else "0x1",
    )
    begin = trio.current_time()
    facts = await probe_chain(["http://chain"], {}, None)
    assert isinstance(facts, ChainFacts)
    assert not facts.advanced
    assert trio.current_time() - begin == pytest.approx(node.doctor.chain.ADVANCE_SECONDS_MAX)


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(500),
        httpx.Response(200, content=b"<html>"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={"error": {"message": "no"}}),
        httpx.Response(200, content=b" " * (4 * 1024 * 1024 + 1)),
        None,
        5,
        "zz",
        {},
    ],
)
async def test_an_endpoint_that_answers_nonsense_counts_as_unreachable(
    monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    with_answers(monkeypatch, lambda _method, _params: answer)
    assert isinstance(await probe_chain(["http://chain"], {}, None), ChainUnreachable)
