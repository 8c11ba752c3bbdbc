"""What the sender does when the chain, its endpoints or another program do not behave."""

import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from node.chain.account_lock import AccountInUseError, exclusive_account
from node.chain.deployer import send_transaction
from node.chain.devnet import development_account
from node.chain.fees import GWEI
from node.chain.nonce_search import NonceSearch
from node.chain.rpc import JsonRpc, RpcError
from node.chain.sender import Sender
from node.ports import ActionStatus
from node.protocol.actions import FundChannel
from node.protocol.identifiers import TokenAmount
from node.store.chain_tables import Attempt
from tests.integration.chain.conftest import PATIENCE_SECONDS, TOKEN, Network
from tests.integration.chain.test_chain_port import opened

pytestmark = pytest.mark.chain


def fund(network: Network, tokens: int = 5) -> FundChannel:
    return FundChannel(network.miners[0].address, TokenAmount(tokens * TOKEN))


async def in_channels(network: Network, chain: Any) -> int:
    return int(await chain.token_balance(network.deployment.addresses.payment_channels))


async def until_signed(chain: Any) -> int:
    """Wait until a first transaction is signed; return its nonce."""
    with trio.fail_after(PATIENCE_SECONDS):
        while not chain._tables.in_flight():
            await trio.sleep(0.02)
    return int(chain._tables.in_flight()[0].nonce)


async def keep_quiet(self: Sender, attempt: Attempt) -> None:
    await trio.lowlevel.checkpoint()


async def test_a_nonce_that_another_program_used_is_proven_and_the_intent_done_once(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    with capture_logs() as logs:
        async with opened(network, network.owner) as owner:
            with monkeypatch.context() as quiet:
                quiet.setattr(Sender, "_broadcast", keep_quiet)
                await owner.submit("fund", fund(network))
                nonce = await until_signed(owner)
                await send_transaction(network.rpc, network.owner, "foreign", network.miners[1].address, value=1)
                with trio.fail_after(PATIENCE_SECONDS):
                    while owner._tables.in_flight()[:1] and owner._tables.in_flight()[0].nonce == nonce:
                        await trio.sleep(0.02)
            with trio.fail_after(PATIENCE_SECONDS):
                assert (await owner.outcome("fund")).status is ActionStatus.DONE
            assert await in_channels(network, owner) == 5 * TOKEN
    assert [e for e in logs if e["log_level"] == "error" and e.get("nonce") == nonce]


async def test_without_proof_nothing_is_signed_with_another_nonce(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nobody(self: Sender, nonce: int, number: int) -> None:
        await trio.lowlevel.checkpoint()

    async def nothing(self: Sender, attempts: object) -> dict[Any, Any]:
        await trio.lowlevel.checkpoint()
        return {}

    monkeypatch.setattr(NonceSearch, "_who_used", nobody)
    monkeypatch.setattr(Sender, "_mined_in", nothing)
    with capture_logs() as logs:
        async with opened(network, network.owner) as owner:
            await owner.submit("fund", fund(network))
            nonce = await until_signed(owner)
            with trio.fail_after(PATIENCE_SECONDS):
                while not any("no block read" in entry["event"] for entry in logs):
                    await trio.sleep(0.02)
            assert [transaction.nonce for transaction in owner._tables.in_flight()] == [nonce]


async def test_a_transaction_whose_receipt_is_withheld_is_found_in_its_block(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(self: Sender, attempts: object) -> dict[Any, Any]:
        await trio.lowlevel.checkpoint()
        return {}

    monkeypatch.setattr(Sender, "_mined_in", nothing)
    async with opened(network, network.owner) as owner:
        await owner.submit("fund", fund(network))
        with trio.fail_after(PATIENCE_SECONDS):
            assert (await owner.outcome("fund")).status is ActionStatus.DONE
        assert await in_channels(network, owner) == 5 * TOKEN


@pytest.mark.parametrize(
    "refusal",
    [
        RpcError(-32603, "internal error", ""),
        RpcError(-32000, "insufficient funds for gas * price + value", ""),
        RpcError(-32000, "gas required exceeds allowance (0)", "0x"),
    ],
    ids=str,
)
async def test_only_a_revert_fails_an_intent(
    network: Network, monkeypatch: pytest.MonkeyPatch, refusal: RpcError
) -> None:
    original, refused = JsonRpc._ask, 0

    async def refuse_estimates(self: JsonRpc, endpoint: Any, method: str, parameters: Any) -> Any:
        nonlocal refused
        if method == "eth_estimateGas" and refused < 6:
            refused += 1
            raise refusal
        return await original(self, endpoint, method, parameters)

    monkeypatch.setattr(JsonRpc, "_ask", refuse_estimates)
    async with opened(network, network.owner) as owner:
        await owner.submit("fund", fund(network))
        with trio.fail_after(PATIENCE_SECONDS):
            assert (await owner.outcome("fund")).status is ActionStatus.DONE
    assert refused == 6


async def test_fees_never_pass_the_ceiling_and_the_intent_waits(network: Network) -> None:
    clock = 1_800_000_000

    def wall_clock() -> int:
        nonlocal clock
        clock += 1
        return clock

    ceiling = 100 * GWEI
    async with opened(network, network.owner, max_fee_wei=ceiling, bump_seconds=1.0, wall_clock=wall_clock) as owner:
        await network.rpc.call("evm_setAutomine", False)
        await owner.submit("fund", fund(network))
        nonce = await until_signed(owner)
        await network.rpc.call("anvil_dropAllTransactions")
        await network.rpc.call("anvil_setNextBlockBaseFeePerGas", hex(1000 * GWEI))
        with trio.fail_after(PATIENCE_SECONDS):
            while owner._tables.attempts(nonce)[0].max_fee < ceiling:
                await trio.sleep(0.05)
        enough = clock + 20  # rounds in which it would go beyond, if it did
        with trio.fail_after(PATIENCE_SECONDS):
            while clock < enough:
                await trio.sleep(0.05)
        fees = [attempt.max_fee for attempt in owner._tables.attempts(nonce)]
        assert max(fees) == ceiling
        # Before the clamp each replacement pays enough more for a node to take it.
        for dearer, cheaper in pairwise(fees[1:]):
            assert dearer * 1000 >= cheaper * 1125
        assert (owner._tables.outcome("fund")).status is ActionStatus.PENDING
        await network.rpc.call("anvil_setNextBlockBaseFeePerGas", hex(GWEI))
        await network.rpc.call("evm_setAutomine", True)
        await network.mine()
        with trio.fail_after(PATIENCE_SECONDS):
            assert (await owner.outcome("fund")).status is ActionStatus.DONE
        assert await in_channels(network, owner) == 5 * TOKEN


async def test_the_operator_is_told_once_when_gas_money_runs_low(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = network.owner.address
    original, looks = JsonRpc._ask, 0

    async def count(self: JsonRpc, endpoint: Any, method: str, parameters: Any) -> Any:
        nonlocal looks
        looks += method == "eth_getBalance"
        return await original(self, endpoint, method, parameters)

    monkeypatch.setattr(JsonRpc, "_ask", count)
    with capture_logs() as logs:
        async with opened(network, network.owner, gas_reserve_wei=10**18) as owner:
            await network.rpc.call("anvil_setBalance", account, hex(10**17))
            with trio.fail_after(PATIENCE_SECONDS):
                while not owner.low_balance:
                    await trio.sleep(0.02)
                enough = looks + 2
                while looks < enough:
                    await trio.sleep(0.02)
                await network.rpc.call("anvil_setBalance", account, hex(10**20))
                while owner.low_balance:
                    await trio.sleep(0.02)
    assert len([e for e in logs if e["log_level"] == "error"]) == 1
    assert len([e for e in logs if "can pay gas again" in e["event"]]) == 1


async def test_one_account_has_one_writer_and_the_other_is_named(network: Network) -> None:
    async with opened(network, network.owner):
        with pytest.raises(AccountInUseError, match=str(os.getpid())):
            async with opened(network, network.owner, "second"):
                pass
    async with opened(network, network.owner, "second"):
        pass


def test_the_account_of_a_killed_process_is_free(tmp_path: Path) -> None:
    account = development_account(0).address
    program = (
        "import sys, time; from pathlib import Path; from node.chain.account_lock import exclusive_account\n"
        f"with exclusive_account(Path({str(tmp_path)!r}), 1, 'aa' * 32, {account!r}):\n"
        "    print('held', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(AccountInUseError, match=str(holder.pid)),
            exclusive_account(tmp_path, 1, "aa" * 32, account),
        ):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with exclusive_account(tmp_path, 1, "aa" * 32, account):
        pass
    with exclusive_account(tmp_path, 1, "aa" * 32, account), exclusive_account(tmp_path, 1, "bb" * 32, account):
        pass  # a development chain of the same id, with another past
