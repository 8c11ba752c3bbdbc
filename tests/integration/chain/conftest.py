"""A deployed network on a real EVM (anvil), a chain of its own for each test that asks for it.

It is deployed once, in seconds; the chains of later tests begin with the blocks and the state that were there then.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import trio

from node.chain.accounts import LocalAccount
from node.chain.addresses import Deployment, read_deployment
from node.chain.deployment import NetworkPlan, Penalty, deploy_network
from node.chain.devnet import development_account, find_anvil, run_anvil
from node.chain.rpc import JsonRpc
from node.protocol.identifiers import BlockNumber, TokenAmount
from node.protocol.records import EpochParameters

ROOT = Path(__file__).resolve().parents[3]
TOKEN = 10**18
PATIENCE_SECONDS = 30


@dataclass(frozen=True)
class Network:
    """A chain with the contracts on it; `owner` deployed them and holds the supply."""

    url: str
    rpc: JsonRpc
    deployment: Deployment
    owner: LocalAccount
    miners: tuple[LocalAccount, ...]
    folder: Path

    async def mine(self, blocks: int = 1) -> None:
        await self.rpc.call("anvil_mine", hex(blocks))


@dataclass
class Beginning:
    """What each chain begins with, once the first has been deployed on."""

    state: str = ""
    """As anvil dumps it."""
    deployment_file: bytes = b""


BEGINNING = Beginning()


def plan_for(owner: LocalAccount, miners: tuple[LocalAccount, ...]) -> NetworkPlan:
    return NetworkPlan(
        token_cap=TokenAmount(1_000_000 * TOKEN),
        token_supply=TokenAmount(10_000 * TOKEN),
        treasury=owner.address,
        genesis_group=tuple(sorted(((miner.address, 1) for miner in miners), key=lambda entry: entry[0].lower())),
        genesis_models=(),
        governance=None,
        parameters=EpochParameters(
            genesis_block=BlockNumber(0),
            epoch_blocks=60,
            generate_offset=20,
            exchange_offset=30,
            validate_offset=34,
            vote_exchange_offset=42,
            form_offset=46,
            load_offset=54,
            poc_sample_size=8,
            poc_reject_mismatches=3,
            unit_price=TokenAmount(10**12),
            initial_subsidy=TokenAmount(100 * TOKEN),
            halving_epochs=100,
        ),
        unbonding_seconds=3600,
        unlock_seconds=600,
        min_collateral=TokenAmount(0),
        vesting_seconds=0,
        answer_blocks=40,
        dispute_blocks=4,
        verdict_blocks=20,
        fraud_penalty=Penalty(per_mille=500, barred_epochs=10),
        downtime_penalty=Penalty(per_mille=10, barred_epochs=1),
    )


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[Network]:
    owner, miners = development_account(0), tuple(development_account(index) for index in (1, 2, 3))
    anvil = find_anvil(ROOT)
    async with (
        run_anvil(anvil, block_seconds=None, log_path=tmp_path / "anvil.log") as chain,
        httpx.AsyncClient() as client,
    ):
        rpc = JsonRpc([chain.url], client)
        output = tmp_path / "deployment.json"
        with trio.fail_after(60):
            if BEGINNING.state:
                assert await rpc.call("anvil_loadState", BEGINNING.state)
                output.write_bytes(BEGINNING.deployment_file)
            else:
                await deploy_network(rpc, owner, plan_for(owner, miners), output, lambda line: None)
                BEGINNING.state = await rpc.call("anvil_dumpState")
                BEGINNING.deployment_file = output.read_bytes()
        yield Network(chain.url, rpc, read_deployment(output), owner, miners, tmp_path)
