"""A deployment may be killed anywhere: run again it goes on, and neither deploys nor calls anything twice."""

import json
import random
from dataclasses import asdict, fields
from pathlib import Path

import httpx
import pytest
import trio
from eth_account import Account

import contracts
from contracts.bindings import model_registry, quern_timelock, slashing
from node.amounts import amount_to_tokens
from node.chain.adapter import read_contract
from node.chain.addresses import ContractAddresses, read_deployment
from node.chain.deployer import is_compiled_from
from node.chain.deployment import NetworkPlan
from node.chain.devnet import development_account, find_anvil, run_anvil
from node.chain.genesis import genesis_text
from node.chain.rpc import JsonRpc, hex_bytes, quantity
from node.protocol.actions import ZERO_ADDRESS
from tests.integration.chain.conftest import ROOT, Network, plan_for
from tests.integration.chain.deploying_process import start_deployment

pytestmark = pytest.mark.chain
CALLS = 3 + 3 + 1 + 1
"""Links between contracts, roles of the timelock, a model of the genesis file, the end of the import."""
STEPS = len(fields(ContractAddresses)) + CALLS
KILLS_MIN = 5
MODEL = model_registry.ModelImport(
    model_id="tiny",
    name="Tiny",
    description="A tiny model",
    active=False,
    spec=model_registry.ModelSpec(
        hf_repo="",
        hf_commit="",
        model_args=("--max-model-len", "512"),
        quantization="",
        kv_cache_quantization="",
        vram_mib=512,
        throughput_per_nonce=1000,
        units_of_compute_per_token=1,
        context_length=512,
        poc_distance_max=1000,
        gated=False,
        encrypted=False,
        proposer=development_account(5).address,
    ),
    cids=("bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi",),
    calibration=b"",
)
RUNS_MAX = 200
FIRST_TRANSACTION_SECONDS = 0.5
DEPLOY_SECONDS_MAX = 60


def write_plan(path: Path, plan: NetworkPlan) -> None:
    parameters = asdict(plan.parameters)
    for name in ("unit_price", "initial_subsidy"):
        parameters[name] = amount_to_tokens(parameters[name])
    record = {
        "token_cap": amount_to_tokens(plan.token_cap),
        "token_supply": amount_to_tokens(plan.token_supply),
        "treasury": plan.treasury,
        "genesis_group": dict(plan.genesis_group),
        "parameters": parameters,
        "unbonding_seconds": plan.unbonding_seconds,
        "unlock_seconds": plan.unlock_seconds,
        "answer_blocks": plan.answer_blocks,
        "dispute_blocks": plan.dispute_blocks,
        "verdict_blocks": plan.verdict_blocks,
        "vesting_seconds": 60,
        "min_collateral": "1.5",
        "fraud_penalty": asdict(plan.fraud_penalty),
        "downtime_penalty": asdict(plan.downtime_penalty),
        "governance": {
            "voting_delay_blocks": 1,
            "voting_period_blocks": 10,
            "proposal_threshold": "1",
            "quorum_percent": 4,
            "timelock_seconds": 5,
        },
    }
    path.write_text(json.dumps(record))


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_deployment_killed_at_random_points_deploys_and_calls_everything_once(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    owner = development_account(0)
    write_plan(tmp_path / "plan.json", plan_for(owner, tuple(development_account(index) for index in (1, 2, 3))))
    (tmp_path / "genesis.json").write_text(genesis_text([MODEL]), encoding="utf-8")
    # A light key derivation: the test starts the script many times.
    keystore = Account.encrypt(owner.private_key.secret, "passphrase", kdf="pbkdf2", iterations=2)
    (tmp_path / "key.json").write_text(json.dumps(keystore))
    (tmp_path / "key.json").chmod(0o600)
    output = tmp_path / "deployment.json"
    journal = output.with_name(output.name + ".journal")
    environment = {"QUERN_PASSPHRASE": "passphrase", "XDG_STATE_HOME": str(tmp_path)}
    command = ["--keystore", str(tmp_path / "key.json"), "--plan", str(tmp_path / "plan.json"), "--output", str(output)]
    command += ["--genesis", str(tmp_path / "genesis.json")]
    kills = 0
    anvil = find_anvil(ROOT)
    async with run_anvil(anvil, block_seconds=0.2, log_path=tmp_path / "anvil.log") as chain, httpx.AsyncClient() as c:
        rpc = JsonRpc([chain.url], c)
        with trio.fail_after(DEPLOY_SECONDS_MAX * 3):
            while not output.exists():
                before = journal.read_bytes() if journal.exists() else b""
                process = start_deployment([*command, "--rpc", chain.url], environment, tmp_path / "deploy.log")
                # Killed a random while after it first wrote to the journal: between any two of its actions.
                while process.is_alive() and (journal.read_bytes() if journal.exists() else b"") == before:
                    await trio.sleep(0.002)
                patience = chance.uniform(0, FIRST_TRANSACTION_SECONDS)
                with trio.move_on_after(patience):
                    await trio.lowlevel.wait_readable(process.sentinel)
                if process.is_alive():
                    process.kill()
                    kills += 1
                    assert kills < RUNS_MAX
                process.join()
        assert kills >= KILLS_MIN
        assert (await rpc.transaction_count(owner.address)) == STEPS
        deployment = read_deployment(output)
        for name in deployment.code_hashes:
            assert hex_bytes(await rpc.call("eth_getCode", getattr(deployment.addresses, name), "latest"))
        addresses = deployment.addresses
        assert await read_contract(rpc, addresses.model_registry, model_registry.export_model(0)) == MODEL
        assert await read_contract(rpc, addresses.model_registry, model_registry.owner()) == addresses.timelock
        assert await read_contract(rpc, addresses.model_registry, model_registry.importer()) == ZERO_ADDRESS
        assert await read_contract(rpc, addresses.slashing, slashing.owner()) == addresses.timelock
        admin = quern_timelock.has_role(bytes(32), owner.address)
        assert not await read_contract(rpc, addresses.timelock, admin)
        assert (output.parent / "abi" / "EpochManager.json").exists()
        assert quantity(await rpc.call("eth_getTransactionCount", owner.address, "pending")) == STEPS


async def test_deployed_code_is_told_from_other_code(network: Network) -> None:
    code = hex_bytes(await network.rpc.call("eth_getCode", network.deployment.addresses.payment_channels, "latest"))
    creation = contracts.load("PaymentChannels").bytecode
    assert is_compiled_from(code, creation)
    assert not is_compiled_from(b"", creation)
    assert not is_compiled_from(code, contracts.load("QuernToken").bytecode)
    place = next(index for index, byte in enumerate(code) if byte and index > 100)
    assert not is_compiled_from(code[:place] + bytes([code[place] ^ 0xFF]) + code[place + 1 :], creation)
