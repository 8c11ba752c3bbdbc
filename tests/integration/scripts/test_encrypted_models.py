"""An encrypted model's way on a real chain: from the owner's directory to a miner's plain one, and to nobody else."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import base58
import pytest
import trio
from click.testing import CliRunner, Result

from contracts.bindings import access_vault, participant_registry
from node.chain.accounts import LocalAccount
from node.chain.adapter import EvmChain, open_chain, read_contract
from node.chain.deployer import send_transaction
from node.key_deposits import KeyDeposits
from node.models.content import open_content
from node.models.encryption.keyring import KeyRing
from node.models.encryption.wrapping import Unwrapper
from node.models.validation import validate_model
from node.models.vault import KeyUnavailableError, ModelVault, open_vault
from node.ports import Provider
from node.protocol.identifiers import ModelId
from node.store.database import Database
from p2p.identity import Identity
from scripts import owner_tools
from tests.integration.chain.conftest import Network
from tests.integration.chain.conftest import network as network  # noqa: PLC0414 - a fixture
from tests.integration.scripts.test_owner_upload import Owner, make_owner

pytestmark = pytest.mark.chain
MODEL = ModelId("secret")


@dataclass(frozen=True)
class Miner:
    """What a daemon would run with: its account, its peer key, its chain, its own places."""

    folder: Path
    account: LocalAccount
    seed: bytes
    chain: EvmChain
    vault: ModelVault

    async def load(self, owner: Owner) -> Path:
        """Fetch the model from the owner's content directory over HTTP, and open it."""
        model = self.chain.state.models[MODEL]
        async with (
            open_content(owner.folder / "content", host="127.0.0.1", port=0, cache_bytes_max=0) as theirs,
            open_content(self.folder / "content", host="127.0.0.1", port=0, cache_bytes_max=0) as ours,
        ):
            path = self.folder / "models" / model.cid
            await ours.ensure_directory(model.cid, [Provider("127.0.0.1", theirs.port)], path)
        validate_model(path, encrypted=True)
        return await self.vault.open(model, path, "node0")

    async def until_version(self, version: int) -> None:
        with trio.fail_after(30):
            while MODEL not in self.chain.state.models or self.chain.state.models[MODEL].version < version:
                await trio.sleep(0.05)


@asynccontextmanager
async def mining(network: Network, number: int) -> AsyncIterator[Miner]:
    account, folder, seed = network.miners[number], network.folder / f"miner{number}", bytes([number + 1] * 32)
    folder.mkdir(exist_ok=True)
    database = Database(folder / "quern.sqlite")
    try:
        async with (
            open_chain(
                rpc_urls=[network.url], chain_id=31337, deployment=network.deployment, account=account,
                database=database, confirmations=0, poll_seconds=0.05, wall_clock=lambda: 0,
                lock_dir=network.folder / "locks",
            ) as chain,
            open_vault(
                folder / "unsealed", KeyRing(folder / "keys"), Unwrapper(seed, account.private_key),
                KeyDeposits(chain).wrapped_key,
            ) as vault,
        ):  # fmt: skip
            yield Miner(folder, account, seed, chain, vault)
    finally:
        database.close()


@pytest.fixture
async def owner(network: Network, monkeypatch: pytest.MonkeyPatch) -> Owner:
    (network.folder / "locks").mkdir(mode=0o700)
    return await make_owner(network, monkeypatch, network.owner)


async def upload(owner: Owner, *options: str) -> Result:
    result = await owner.run(
        "--model", str(owner.folder / "small"), "--model-id", MODEL, "--name", "Secret", "--gated", "--encrypt",
        *options,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return result


async def tools(owner: Owner, *arguments: str) -> Result:
    words = [*arguments, "--config", str(owner.config)]
    return await trio.to_thread.run_sync(lambda: CliRunner().invoke(owner_tools.main, words))


def files_of(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


async def register_peer(network: Network, account: LocalAccount, seed: bytes) -> None:
    registry = network.deployment.addresses.participant_registry
    call = participant_registry.register(base58.b58decode(Identity(seed).peer_id), b"")
    await send_transaction(network.rpc, account, "register", registry, data=call.calldata)


async def test_a_model_reaches_the_node_it_was_wrapped_for_and_no_other(owner: Owner, network: Network) -> None:
    first = await upload(owner)
    model = await owner.model(MODEL)
    assert (model.version, model.spec.encrypted, model.spec.gated, model.spec.context_length) == (1, True, True, 512)
    again = await upload(owner)
    assert "unchanged" in again.stdout
    assert f"CID: {model.cid}" in first.stdout
    async with mining(network, 0) as miner, mining(network, 1) as stranger:
        await miner.until_version(1)
        with pytest.raises(KeyUnavailableError, match="ask its owner"):
            await miner.load(owner)

        await register_peer(network, miner.account, miner.seed)
        await register_peer(network, stranger.account, stranger.seed)
        early = await tools(owner, "gate", "wrap-key", MODEL, miner.account.address)
        assert (early.exit_code, "has no access" in early.stderr) == (1, True), early.output
        assert (await tools(owner, "gate", "give", MODEL, miner.account.address)).exit_code == 0
        wrapped = await tools(owner, "gate", "wrap-key", MODEL, miner.account.address)
        assert wrapped.exit_code == 0, wrapped.output

        path = await miner.load(owner)
        assert files_of(path) == files_of(owner.folder / "small")
        await stranger.until_version(1)
        with pytest.raises(KeyUnavailableError, match="ask its owner"):
            await stranger.load(owner)

        # what the stranger can read on chain and from peers opens nothing
        vault = network.deployment.addresses.access_vault
        grant = await read_contract(network.rpc, vault, access_vault.grant_of(MODEL, miner.account.address))
        (held,) = KeyRing(owner.folder / "model-keys").held()
        assert held.key.secret not in grant.wrapped_key
        stolen = ModelVault(
            stranger.folder / "unsealed", KeyRing(stranger.folder / "keys"),
            Unwrapper(stranger.seed, stranger.account.private_key), lambda _: _give(grant.wrapped_key),
        )  # fmt: skip
        with pytest.raises(KeyUnavailableError, match="was not made for this node"):
            await stolen.open(stranger.chain.state.models[MODEL], stranger.folder / "models" / model.cid, "node0")
    assert list((miner.folder / "unsealed").iterdir()) == []


async def _give(wrapped: bytes) -> bytes:
    return wrapped


async def test_a_new_key_makes_a_new_version_that_old_deposits_do_not_open(owner: Owner, network: Network) -> None:
    await upload(owner)
    guest = network.miners[0]
    public_key = guest.private_key.public_key.format(compressed=True).hex()
    unknown = await tools(owner, "gate", "wrap-key", MODEL, guest.address)
    assert (unknown.exit_code, "give --public-key" in unknown.stderr) == (1, True), unknown.output
    assert (await tools(owner, "gate", "give", MODEL, guest.address)).exit_code == 0
    wrong = await tools(owner, "gate", "wrap-key", MODEL, network.miners[1].address, "--public-key", public_key)
    assert (wrong.exit_code, "is the public key of" in wrong.stderr) == (1, True), wrong.output
    assert (await tools(owner, "gate", "wrap-key", MODEL, guest.address, "--public-key", public_key)).exit_code == 0

    async with mining(network, 0) as miner:
        await miner.until_version(1)
        first = await miner.load(owner)
        assert (first / "config.json").is_file()
        await upload(owner, "--new-key")
        await miner.until_version(2)
        with pytest.raises(KeyUnavailableError, match="does not open"):
            await miner.load(owner)
        again = await tools(owner, "gate", "wrap-key", MODEL, guest.address, "--public-key", public_key)
        assert again.exit_code == 0, again.output
        second = await miner.load(owner)
        assert (second != first, files_of(second)) == (True, files_of(owner.folder / "small"))
        assert (await tools(owner, "gate", "revoke", MODEL, guest.address)).exit_code == 0
        await miner.vault.keep("node0", None)
        with pytest.raises(KeyUnavailableError, match="ask its owner"):
            await miner.load(owner)


async def test_the_key_to_wrap_is_that_of_the_published_version_or_the_one_that_is_named(
    owner: Owner, network: Network, tmp_path: Path
) -> None:
    await upload(owner)
    (held,) = KeyRing(owner.folder / "model-keys").held()
    key_id = held.key.key_id.hex()
    guest = network.miners[0]
    public_key = guest.private_key.public_key.format(compressed=True).hex()
    assert (await tools(owner, "gate", "give", MODEL, guest.address)).exit_code == 0
    words = ("gate", "wrap-key", MODEL, guest.address, "--public-key", public_key)
    dry = await tools(owner, *words, "--dry-run", "--json")
    assert json.loads(dry.stdout)["status"] == "dry run"
    assert held.key.secret.hex() not in dry.output
    (owner.folder / "content").rename(owner.folder / "elsewhere")
    lost = await tools(owner, *words)
    assert (lost.exit_code, "give --key-id" in lost.stderr) == (1, True), lost.output
    assert (await tools(owner, *words, "--key-id", key_id)).exit_code == 0
    (owner.folder / "model-keys").rename(owner.folder / "no-keys")
    gone = await tools(owner, *words, "--key-id", key_id)
    assert (gone.exit_code, "restore it from your backup" in gone.stderr) == (1, True), gone.output
