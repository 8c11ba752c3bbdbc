"""scripts/owner_upload.py on a real chain: a manifest arrives whole or not at all, and once."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner, Result
from eth_account import Account

from contracts.bindings import model_registry
from node.chain.adapter import read_contract
from node.chain.rpc import quantity
from node.private_files import create_private_file
from node.store.chain_tables import ChainTables
from node.store.database import Database
from p2p.content.blockstore import BlockStore
from scripts.owner_upload import main
from tests.hub_stand_in import Repository, commit_of, hub_stand_in
from tests.integration.chain.conftest import ROOT, Network
from tests.integration.chain.conftest import network as network  # noqa: PLC0414 - a fixture
from tests.unit.models.test_validation import write_safetensors

pytestmark = pytest.mark.chain
PASSPHRASE = "long enough"
COMMIT = commit_of("first")


def write_model(directory: Path, *, content: str = "") -> None:
    directory.mkdir(parents=True, exist_ok=True)
    config = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 512, "note": content}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer.json").write_text("{}")
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    write_safetensors(directory / "model.safetensors")


@dataclass(frozen=True)
class Owner:
    """The command line of the account that owns the registry, and a manifest with two models."""

    network: Network
    folder: Path
    config: Path

    async def run(self, *arguments: str) -> Result:
        words = [*arguments, "--config", str(self.config)]
        return await trio.to_thread.run_sync(lambda: CliRunner().invoke(main, words))

    async def upload(self, *arguments: str) -> Result:
        return await self.run("--manifest", str(self.folder / "models.toml"), *arguments)

    def describe(self, more: str = "") -> None:
        (self.folder / "models.toml").write_text(
            f"""
            [[models]]
            id = "small"
            name = "Small"
            directory = "small"
            units_of_compute_per_token = 3
            {more}
            [[models]]
            id = "team/large"
            name = "Large"
            directory = "large"
            gated = true
            quantization = "fp8"
            """
        )

    async def model(self, model_id: str) -> model_registry.ModelInfo:
        registry = self.network.deployment.addresses.model_registry
        return await read_contract(self.network.rpc, registry, model_registry.get_model(model_id))

    async def count(self) -> int:
        registry = self.network.deployment.addresses.model_registry
        return await read_contract(self.network.rpc, registry, model_registry.model_count())

    async def nonce(self) -> int:
        return await self.network.rpc.transaction_count(self.network.owner.address)


async def make_owner(network: Network, monkeypatch: pytest.MonkeyPatch, account: Any) -> Owner:
    monkeypatch.setenv("QUERN_PASSPHRASE", PASSPHRASE)
    monkeypatch.setenv("XDG_STATE_HOME", str(network.folder / "state"))
    folder = network.folder / "owner"
    folder.mkdir()
    keystore = json.dumps(Account.encrypt(account.private_key.secret, PASSPHRASE, iterations=2))
    create_private_file(folder / "account.json", keystore.encode())
    (folder / "quern.toml").write_text(
        f"""
        [node]
        data_dir = "{folder}"
        [account]
        keystore = "{folder}/account.json"
        [chain]
        rpc_urls = ["{network.url}"]
        chain_id = 31337
        deployment = "{network.folder}/deployment.json"
        confirmations = 0
        poll_seconds = 0.1
        """
    )
    write_model(folder / "small", content="small")
    write_model(folder / "large", content="large")
    owner = Owner(network, folder, folder / "quern.toml")
    owner.describe()
    return owner


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub-home"))
    write_model(tmp_path / "hub-files", content="from the Hub")
    files = {path.name: path.read_bytes() for path in (tmp_path / "hub-files").iterdir()}
    with hub_stand_in() as server:
        server.repositories["team/chat"] = Repository({COMMIT: files}, {"main": COMMIT, "v1": COMMIT})
        yield server.url


@pytest.fixture
async def owner(network: Network, monkeypatch: pytest.MonkeyPatch) -> Owner:
    return await make_owner(network, monkeypatch, network.owner)


async def test_a_manifest_is_published_and_the_second_time_nothing_is_sent(owner: Owner) -> None:
    first = await owner.upload()
    assert first.exit_code == 0, first.output
    small, large = await owner.model("small"), await owner.model("team/large")
    assert (small.version, small.spec.units_of_compute_per_token, small.spec.context_length) == (1, 3, 512)
    assert small.spec.model_args == ("--max-model-len", "512")
    assert (large.spec.gated, large.spec.quantization) == (True, "fp8")
    assert large.spec.proposer == owner.network.owner.address
    assert small.cid != large.cid
    for model in (small, large):
        assert f"CID: {model.cid}" in first.stdout

    before = await owner.nonce()
    again = await owner.upload()
    assert (again.exit_code, again.stdout.count("unchanged")) == (0, 2), again.output
    assert await owner.nonce() == before


async def test_new_content_is_a_new_version_and_a_new_specification_is_not(owner: Owner) -> None:
    assert (await owner.upload()).exit_code == 0
    large = await owner.model("team/large")
    first = (await owner.model("small")).cid

    owner.describe("vram_mib = 700")
    changed = await owner.upload()
    assert changed.exit_code == 0, changed.output
    assert "vram_mib: 0 becomes 700" in changed.stdout
    small = await owner.model("small")
    assert (small.version, small.cid, small.spec.vram_mib) == (1, first, 700)
    assert small.spec.proposer == owner.network.owner.address

    write_model(owner.folder / "small", content="better")
    owner.describe("vram_mib = 800")
    before = await owner.nonce()
    assert (await owner.upload()).exit_code == 0
    small = await owner.model("small")
    assert (small.version, small.spec.vram_mib) == (2, 800)
    assert small.cid != first
    registry = owner.network.deployment.addresses.model_registry
    assert await read_contract(owner.network.rpc, registry, model_registry.cid_at("small", 1)) == first
    assert await owner.model("team/large") == large
    assert await owner.nonce() == before + 2


async def test_one_model_at_fault_keeps_all_from_the_chain_and_all_faults_are_told(owner: Owner) -> None:
    before = await owner.nonce()
    (owner.folder / "large" / "pytorch_model.bin").write_bytes(b"\x80\x04")
    refused = await owner.upload()
    assert refused.exit_code == 1
    assert "team/large: pytorch_model.bin: pickled weights" in refused.stderr
    (owner.folder / "small" / "tokenizer.json").unlink()
    refused = await owner.upload()
    assert "team/large: pytorch_model.bin" in refused.stderr
    assert "small: tokenizer.json is missing" in refused.stderr
    assert "Traceback" not in refused.output
    assert (await owner.count(), await owner.nonce()) == (0, before)


async def test_what_a_killed_run_left_in_the_outbox_is_finished_and_not_sent_twice(owner: Owner) -> None:
    assert (await owner.upload()).exit_code == 0
    write_model(owner.folder / "small", content="better")
    dry = await owner.upload("--dry-run", "--only", "small")
    cid = next(line.removeprefix("CID: ") for line in dry.stdout.splitlines() if line.startswith("CID: "))
    database = Database(owner.folder / "owner.sqlite")
    registry = owner.network.deployment.addresses.model_registry
    update = model_registry.update_model("small", cid).calldata
    assert ChainTables(database).add_intent("publish/small/killed", [(registry, update)])
    database.close()
    before = await owner.nonce()
    result = await owner.upload()
    assert result.exit_code == 0, result.output
    assert "earlier run: publish/small/killed" in result.stdout
    small = await owner.model("small")
    assert (small.cid, small.version, await owner.nonce()) == (cid, 2, before + 1)


@contextmanager
def heeding_interrupts() -> Iterator[None]:
    """Have children begun here heed SIGINT. A shell has what it runs in the background ignore it, which every child
    inherits, and a program that is asked to ignore it does so, this one too.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


async def test_an_interrupted_run_says_so_and_the_next_one_registers_once(owner: Owner) -> None:
    rpc = owner.network.rpc
    before = await owner.nonce()
    await rpc.call("evm_setAutomine", False)
    command = [sys.executable, "-m", "scripts.owner_upload", "--manifest", str(owner.folder / "models.toml")]
    with heeding_interrupts():
        process = await trio.lowlevel.open_process(
            [*command, "--config", str(owner.config)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    try:
        with trio.fail_after(60):
            while quantity(await rpc.call("eth_getTransactionCount", owner.network.owner.address, "pending")) == before:
                await trio.sleep(0.05)
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            said = b"".join([chunk async for chunk in process.stderr]).decode()
            assert await process.wait() == 1
    finally:
        process.kill()
    assert said.startswith("owner_upload: interrupted. Run this again"), said
    assert await owner.count() == 0

    await rpc.call("evm_setAutomine", True)
    await owner.network.mine()
    again = await owner.upload()
    assert again.exit_code == 0, again.output
    versions = [(await owner.model(model_id)).version for model_id in ("small", "team/large")]
    assert (versions, await owner.nonce()) == ([1, 1], before + 2)


async def test_only_what_was_asked_for_is_published(owner: Owner) -> None:
    before = await owner.nonce()
    dry = await owner.upload("--dry-run")
    assert (dry.exit_code, dry.stdout.count("CID: "), await owner.nonce()) == (0, 2, before)
    absent = await owner.upload("--only", "absent")
    assert (absent.exit_code, "has no model absent" in absent.stderr) == (1, True)
    assert (await owner.upload("--only", "team/large")).exit_code == 0
    assert (await owner.count(), (await owner.model("team/large")).active) == (1, True)


async def test_a_single_upload_takes_every_option_of_the_specification(owner: Owner) -> None:
    proposer = owner.network.miners[0].address
    result = await owner.run(
        "--directory", str(owner.folder / "small"), "--model-id", "small", "--name", "Small", "--gated", "--encrypt",
        "--quantization", "awq", "--kv-cache-quantization", "fp8", "--proposer", proposer,
        "--model-args", "--max-model-len 256 --dtype bfloat16",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    spec = (await owner.model("small")).spec
    assert (spec.gated, spec.encrypted, spec.quantization, spec.kv_cache_quantization) == (True, True, "awq", "fp8")
    assert (spec.proposer, spec.model_args) == (proposer, ("--max-model-len", "256", "--dtype", "bfloat16"))


async def test_a_repository_is_downloaded_resolved_and_published_and_again_without_the_hub(
    owner: Owner, hub: str
) -> None:
    words = ("--model", "team/chat", "--revision", "v1", "--model-id", "chat", "--name", "Chat", "--hf-endpoint", hub)
    before = await owner.nonce()
    dry = await owner.run(*words, "--skip-blockchain")
    assert dry.exit_code == 0, dry.output
    assert f"team/chat at v1 is commit {COMMIT}" in dry.stdout
    cid = next(line.removeprefix("CID: ") for line in dry.stdout.splitlines() if line.startswith("CID: "))
    assert await owner.nonce() == before
    store = BlockStore(owner.folder / "content")
    assert [(str(pin.root), pin.name) for pin in store.pins()] == [(cid, "published")]
    store.close()

    offline = [word if word != hub else "http://127.0.0.1:9" for word in words]
    unreachable = await owner.run(*offline)
    assert (unreachable.exit_code, "the Hub cannot be reached" in unreachable.stderr) == (1, True)
    assert "Traceback" not in unreachable.output
    published = await owner.run(*offline, "--skip-download")
    assert published.exit_code == 0, published.output
    model = await owner.model("chat")
    assert (model.cid, model.spec.hf_repo, model.spec.hf_commit) == (cid, "team/chat", COMMIT)


async def test_a_manifest_may_name_repositories_and_encrypt(owner: Owner, hub: str) -> None:
    (owner.folder / "models.toml").write_text(
        """
        [[models]]
        id = "small"
        name = "Small"
        model = "small"
        encrypt = true
        [[models]]
        id = "chat"
        name = "Chat"
        model = "team/chat"
        revision = "v1"
        """
    )
    result = await owner.upload("--hf-endpoint", hub)
    assert result.exit_code == 0, result.output
    small, chat = await owner.model("small"), await owner.model("chat")
    assert (small.spec.encrypted, small.spec.context_length, small.version) == (True, 512, 1)
    assert (chat.spec.encrypted, chat.spec.hf_commit) == (False, COMMIT)
    again = await owner.upload("--hf-endpoint", hub)
    assert (again.exit_code, again.stdout.count("unchanged")) == (0, 2), again.output


async def test_who_does_not_own_the_registry_is_refused_in_words_and_pays_nothing(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = await make_owner(network, monkeypatch, network.miners[0])
    result = await stranger.upload()
    assert result.exit_code == 1
    assert result.stderr.count("the ModelRegistry refused") == 2
    assert "OwnableUnauthorizedAccount" in result.stderr
    assert await network.rpc.transaction_count(network.miners[0].address) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("--manifest", "x", "--name", "X"),
        ("--manifest", "x", "--encrypt"),
        ("--only", "x"),
        ("--directory", "x"),
        ("--model-id", "x"),
    ],
)
def test_options_that_contradict_each_other_are_wrong_usage(arguments: tuple[str, ...]) -> None:
    assert CliRunner().invoke(main, list(arguments)).exit_code == 2
