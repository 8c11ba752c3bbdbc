"""scripts/owner_tools.py on a real chain: what it says is there, what it sends arrives, refusals cost nothing."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner, Result
from eth_account import Account

from contracts.bindings import access_vault, model_registry
from node.chain.adapter import read_contract
from node.chain.deployer import send_transaction
from node.chain.genesis import read_genesis
from node.private_files import create_private_file
from node.protocol.calibration import Calibration, HonestBand, calibration_bytes
from node.protocol.identifiers import ModelId
from node.protocol.json_records import to_json_value
from scripts.owner.registry import EXIT_TO_BE_PROPOSED
from scripts.owner_tools import main
from tests.integration.chain.conftest import TOKEN, Network
from tests.integration.chain.conftest import network as network  # noqa: PLC0414 - a fixture

pytestmark = pytest.mark.chain
FIRST = "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi"
SECOND = "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
PASSPHRASE = "long enough"


@dataclass(frozen=True)
class Tools:
    """The command line of an account that owns the registry, and of one that does not."""

    network: Network
    owner: tuple[str, ...]
    stranger: tuple[str, ...]

    async def run(self, *arguments: str, account: tuple[str, ...] | None = None) -> Result:
        chosen = self.owner if account is None else account
        place = ("--rpc", self.network.url, "--deployment", str(self.network.folder / "deployment.json"))
        shows = (("gate", "show"), ("parameters", "show"))
        reading = arguments[0] in ("list", "get", "history", "export") or arguments[:2] in shows
        words = [*arguments, *place, *(() if reading else chosen)]
        return await trio.to_thread.run_sync(lambda: CliRunner().invoke(main, words))

    async def nonce(self) -> int:
        return await self.network.rpc.transaction_count(self.network.owner.address)


@pytest.fixture
async def tools(network: Network, monkeypatch: pytest.MonkeyPatch) -> Tools:
    monkeypatch.setenv("QUERN_PASSPHRASE", PASSPHRASE)
    monkeypatch.setenv("XDG_STATE_HOME", str(network.folder / "state"))
    options = []
    for name, account in (("owner", network.owner), ("stranger", network.miners[0])):
        path = network.folder / f"{name}.json"
        # Two rounds of the key derivation only: each command opens the keystore.
        keystore = json.dumps(Account.encrypt(account.private_key.secret, PASSPHRASE, iterations=2))
        create_private_file(path, keystore.encode())
        options.append(("--keystore", str(path)))
    return Tools(network, options[0], options[1])


async def test_a_models_life_from_registration_to_history_and_export(tools: Tools, tmp_path: Path) -> None:
    spec = ("--context-length", "512", "--model-args", "--max-model-len 512", "--poc-distance-max", "7")
    registered = await tools.run("register", "tiny", FIRST, "--name", "Tiny", *spec)
    assert registered.exit_code == 0, registered.output
    assert "Done: register tiny, in transaction 0x" in registered.stdout
    assert (await tools.run("update", "tiny", SECOND)).exit_code == 0
    again = await tools.run("update", "tiny", SECOND)
    assert (again.exit_code, "unchanged" in again.stdout) == (0, True)
    assert (await tools.run("set-spec", "tiny", "--units-of-compute-per-token", "3", "--gated")).exit_code == 0
    assert (await tools.run("deactivate", "tiny")).exit_code == 0

    found = json.loads((await tools.run("get", "tiny", "--json")).stdout)
    assert (found["cid"], found["version"], found["active"]) == (SECOND, 2, False)
    assert found["spec"]["model_args"] == ["--max-model-len", "512"]
    assert (found["spec"]["units_of_compute_per_token"], found["spec"]["gated"]) == (3, True)
    assert found["spec"]["proposer"] == tools.network.owner.address
    assert SECOND in (await tools.run("list")).stdout
    assert "no models" in (await tools.run("list", "--active")).stdout
    versions = json.loads((await tools.run("history", "tiny", "--json")).stdout)["versions"]
    assert versions == [{"version": 1, "cid": FIRST}, {"version": 2, "cid": SECOND}]

    path = tmp_path / "genesis.json"
    assert (await tools.run("export", "--output", str(path))).exit_code == 0
    assert (await tools.run("export")).stdout == path.read_text(encoding="utf-8")
    registry = tools.network.deployment.addresses.model_registry
    assert read_genesis(path) == (await read_contract(tools.network.rpc, registry, model_registry.export_model(0)),)


async def test_a_calibration_is_published_shown_exported_and_taken_back(tools: Tools, tmp_path: Path) -> None:
    assert (await tools.run("register", "tiny", FIRST, "--name", "Tiny")).exit_code == 0
    measured = Calibration(ModelId("tiny"), 1, (HonestBand("vllm", "", 400_000, 900, 1, 2, 3, 4),))
    file = tmp_path / "tiny.json"
    file.write_text(json.dumps(to_json_value(measured)), encoding="utf-8")
    done = await tools.run("calibrate", "tiny", str(file))
    assert (done.exit_code, "calibrate tiny version 1" in done.stdout) == (0, True), done.output
    assert "unchanged" in (await tools.run("calibrate", "tiny", str(file))).stdout
    shown = json.loads((await tools.run("get", "tiny", "--json")).stdout)
    assert shown["calibration"] == to_json_value(measured)
    assert "vllm on all other hardware" in (await tools.run("get", "tiny")).stdout
    exported = tmp_path / "genesis.json"
    assert (await tools.run("export", "--output", str(exported))).exit_code == 0
    assert read_genesis(exported)[0].calibration == calibration_bytes(measured)
    assert (await tools.run("calibrate", "tiny", "--remove")).exit_code == 0
    assert json.loads((await tools.run("get", "tiny", "--json")).stdout)["calibration"] is None

    assert (await tools.run("calibrate", "tiny", str(file), account=tools.stranger)).exit_code == EXIT_TO_BE_PROPOSED
    assert (await tools.run("update", "tiny", SECOND)).exit_code == 0
    stale = await tools.run("calibrate", "tiny", str(file))
    assert (stale.exit_code, "is of tiny version 1, the registry has tiny at version 2" in stale.stderr) == (1, True)
    file.write_text("{}", encoding="utf-8")
    wrong = await tools.run("calibrate", "tiny", str(file))
    assert (wrong.exit_code, "is no calibration as `quern calibrate` writes it" in wrong.stderr) == (1, True)


async def test_other_parameters_are_scheduled_and_shown(tools: Tools) -> None:
    stages = ("--generate-offset", "25", "--epoch-blocks", "70", "--unit-price", "5")
    done = await tools.run("parameters", "schedule", "4", *stages)
    assert done.exit_code == 0, done.output
    shown = json.loads((await tools.run("parameters", "show", "--epoch", "4", "--json")).stdout)
    assert (shown["since_epoch"], shown["epoch_blocks"], shown["generate_offset"]) == (4, 70, 25)
    assert (shown["unit_price"], shown["form_offset"]) == (5, 46)
    before = json.loads((await tools.run("parameters", "show", "--epoch", "3", "--json")).stdout)
    assert (before["since_epoch"], before["epoch_blocks"]) == (0, 60)
    soon = await tools.run("parameters", "schedule", "1", *stages)
    assert (soon.exit_code, "a change can begin with epoch" in soon.stderr) == (1, True)
    long = await tools.run("parameters", "schedule", "5", "--epoch-blocks", "121")
    assert (long.exit_code, "an epoch of 121 blocks is not taken: 30 to 120 are" in long.stderr) == (1, True)
    stranger = await tools.run("parameters", "schedule", "5", *stages, account=tools.stranger)
    assert stranger.exit_code == EXIT_TO_BE_PROPOSED


async def test_refusals_are_told_in_words_before_anything_is_sent(tools: Tools) -> None:
    assert (await tools.run("register", "tiny", FIRST, "--name", "Tiny")).exit_code == 0
    before = await tools.nonce()
    for arguments, words in (
        (("register", "tiny", FIRST, "--name", "Tiny"), "tiny is registered already"),
        (("register", "Tiny", FIRST, "--name", "Tiny"), "cannot be a model id"),
        (("register", "other", FIRST, "--name", "x" * 513), "name has 513 bytes"),
        (("register", "other", FIRST, "--name", "x", "--model-args", "--host 0.0.0.0"), "--host"),
        (("update", "absent", FIRST), "there is no model 'absent'"),
        (("deactivate", "absent"), "there is no model 'absent'"),
        (("get", "absent"), "there is no model 'absent'"),
        (("gate", "show", "absent"), "there is no model 'absent'"),
        (("gate", "set", "tiny", "--pay-token", tools.network.owner.address, "--price", "1"), "there is no contract"),
    ):
        result = await tools.run(*arguments)
        assert result.exit_code == 1, result.output
        assert words in result.stderr
        assert "Traceback" not in result.output
    assert await tools.nonce() == before


async def test_a_cid_that_nobody_could_fetch_is_wrong_usage(tools: Tools) -> None:
    result = await tools.run("register", "tiny", "QmNewModelHash456", "--name", "Tiny")
    assert (result.exit_code, "not a CID this network fetches" in result.stderr) == (2, True)


async def test_a_dry_run_shows_the_transaction_and_sends_nothing(tools: Tools) -> None:
    before = await tools.nonce()
    result = await tools.run("register", "tiny", FIRST, "--name", "Tiny", "--dry-run", "--json", account=())
    shown = json.loads(result.stdout)
    assert shown["status"] == "dry run"
    assert shown["to"] == tools.network.deployment.addresses.model_registry
    assert shown["calldata"] == "0x" + model_registry.register_model("tiny", FIRST, "Tiny", "").calldata.hex()
    assert await tools.nonce() == before


async def test_without_an_account_a_change_is_wrong_usage(tools: Tools) -> None:
    result = await tools.run("register", "tiny", FIRST, "--name", "Tiny", account=())
    assert (result.exit_code, "--keystore" in result.stderr) == (2, True)


async def test_where_another_account_owns_the_registry_its_call_is_printed_to_be_proposed(tools: Tools) -> None:
    result = await tools.run("register", "tiny", FIRST, "--name", "Tiny", "--json", account=tools.stranger)
    assert result.exit_code == EXIT_TO_BE_PROPOSED
    shown = json.loads(result.stdout)
    assert shown["status"] == "to be proposed"
    assert shown["from"] == tools.network.owner.address
    assert "Nothing was sent" in result.stderr
    # What was printed is what the owner has to send.
    await send_transaction(
        tools.network.rpc, tools.network.owner, "as proposed", shown["to"], data=bytes.fromhex(shown["calldata"][2:])
    )
    registry = tools.network.deployment.addresses.model_registry
    assert await read_contract(tools.network.rpc, registry, model_registry.is_active("tiny"))


async def test_a_gate_lets_in_who_was_given_access_or_holds_the_token_and_nobody_else(tools: Tools) -> None:
    network = tools.network
    token, vault = network.deployment.addresses.token, network.deployment.addresses.access_vault
    guest, other = network.miners[1].address, network.miners[2].address
    assert (await tools.run("register", "tiny", FIRST, "--name", "Tiny", "--gated")).exit_code == 0
    gate = ("--gate-token", token, "--min-balance", "2.5", "--pay-token", token, "--price", "0.5", "--access-days", "3")
    assert (await tools.run("gate", "set", "tiny", *gate)).exit_code == 0
    stored = await read_contract(network.rpc, vault, access_vault.gate_of("tiny"))
    assert stored == access_vault.Gate(token, 5 * TOKEN // 2, access_vault.Offer(token, TOKEN // 2, 3 * 86_400))
    shown = json.loads((await tools.run("gate", "show", "tiny", "--account", guest, "--json")).stdout)
    assert (shown["min_balance"], shown["price"], shown["has_access"]) == ("2.5", "0.5", False)

    assert (await tools.run("gate", "give", "tiny", guest, "--days", "2")).exit_code == 0
    assert await read_contract(network.rpc, vault, access_vault.has_access("tiny", guest))
    assert not await read_contract(network.rpc, vault, access_vault.has_access("tiny", other))
    assert (await tools.run("gate", "revoke", "tiny", guest)).exit_code == 0
    assert not await read_contract(network.rpc, vault, access_vault.has_access("tiny", guest))

    refused = await tools.run("gate", "give", "tiny", guest, account=tools.stranger)
    assert (refused.exit_code, "the proposer of tiny" in refused.stderr) == (EXIT_TO_BE_PROPOSED, True)


async def test_a_bare_key_is_never_published_and_a_wrapped_one_needs_somebody_to_unwrap_it(tools: Tools) -> None:
    network = tools.network
    vault, guest = network.deployment.addresses.access_vault, network.miners[1]
    assert (await tools.run("register", "tiny", FIRST, "--name", "Tiny", "--gated", "--encrypted")).exit_code == 0
    bare = await tools.run("gate", "wrap-key", "tiny", guest.address, "--wrapped", "11" * 32)
    assert (bare.exit_code, "published for everybody" in bare.stderr) == (2, True)
    unpublished = await tools.run("gate", "wrap-key", "tiny", guest.address, "--wrapped", "11" * 80)
    assert (unpublished.exit_code, "no encryption key" in unpublished.stderr) == (1, True)
    data = access_vault.set_encryption_key(b"\x07" * 32).calldata
    await send_transaction(network.rpc, guest, "publish a key", vault, data=data)
    shut_out = await tools.run("gate", "wrap-key", "tiny", guest.address, "--wrapped", "11" * 80)
    assert (shut_out.exit_code, "has no access to tiny" in shut_out.stderr) == (1, True)
    assert (await tools.run("gate", "give", "tiny", guest.address)).exit_code == 0
    assert (await tools.run("gate", "wrap-key", "tiny", guest.address, "--wrapped", "11" * 80)).exit_code == 0
    grant = await read_contract(network.rpc, vault, access_vault.grant_of("tiny", guest.address))
    assert grant.wrapped_key == b"\x11" * 80
