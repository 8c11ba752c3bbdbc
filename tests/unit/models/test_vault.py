"""The daemon's vault: an engine gets a whole, valid, private model or none; what is unloaded is gone from the disk."""

import json
import stat
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
from coincurve import PrivateKey

from node import model_loader
from node.engine.arguments import EngineArgumentsError
from node.model_loader import ModelLoader
from node.models.encryption.keyring import KeyRing
from node.models.encryption.keys import ContentKey, create_content_key
from node.models.encryption.sealing import seal_directory
from node.models.encryption.wrapping import (
    Unwrapper,
    account_recipient,
    node_recipient,
    peer_encryption_key,
    wrap_key,
)
from node.models.validation import ModelInvalidError
from node.models.vault import KeyUnavailableError, ModelVault, open_vault
from node.ports import Head
from node.private_files import PrivateFileError
from node.protocol.chain_state import ChainState
from node.protocol.identifiers import BlockNumber, Cid, ModelId
from node.protocol.records import ModelRecord
from node.protocol.signatures import address_of
from tests.builders import account
from tests.unit.models.test_validation import write_safetensors
from tests.waiting import until

MODEL = ModelId("team/secret")
SEED, ACCOUNT = bytes([7] * 32), PrivateKey(bytes([9] * 32))


def write_model(directory: Path, note: str = "") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "note": note}))
    (directory / "tokenizer.json").write_text("{}")
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": "x"}))
    write_safetensors(directory / "model.safetensors")
    return directory


def record(cid: str = "bafy-one", *, encrypted: bool = True, model_args: tuple[str, ...] = ()) -> ModelRecord:
    return ModelRecord(
        model_id=MODEL, cid=Cid(cid), name="x", description="", active=True, version=1, hf_repo="", hf_commit="",
        model_args=model_args, vram_mib=0, throughput_per_nonce=1, units_of_compute_per_token=1, context_length=1,
        poc_distance_max=1, quantization="", kv_cache_quantization="", gated=True, encrypted=encrypted,
        proposer=account(1),
    )  # fmt: skip


@dataclass
class Place:
    """An owner's sealed model, and a miner's vault that knows no key of it yet."""

    folder: Path
    vault: ModelVault
    deposits: dict[ModelId, bytes] = field(default_factory=dict)
    asked: list[float] = field(default_factory=list)
    """When the chain was asked for a key."""

    @property
    def owner_keys(self) -> KeyRing:
        return KeyRing(self.folder / "owner-keys")

    @property
    def miner_keys(self) -> KeyRing:
        return KeyRing(self.folder / "keys")

    def seal(self, note: str = "") -> tuple[Path, ContentKey]:
        source = write_model(self.folder / f"plain{note}", note)
        sealed = seal_directory(source, self.folder / "staging", self.owner_keys, MODEL)
        held = self.owner_keys.find(sealed.key_id)
        assert held is not None
        return sealed.directory.path, held.key

    def opened(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "unsealed").iterdir())

    async def deposited(self, model_id: ModelId) -> bytes:
        self.asked.append(trio.current_time())
        return self.deposits.get(model_id, b"")


@asynccontextmanager
async def vault_in(folder: Path) -> AsyncIterator[Place]:
    place: Place | None = None

    async def deposited(model_id: ModelId) -> bytes:
        assert place is not None
        return await place.deposited(model_id)

    async with open_vault(folder / "unsealed", KeyRing(folder / "keys"), Unwrapper(SEED, ACCOUNT), deposited) as vault:
        place = Place(folder, vault)
        yield place


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with vault_in(tmp_path) as place:
        yield place


async def test_a_model_opens_with_a_key_on_this_machine_and_only_its_owner_can_read_it(place: Place) -> None:
    sealed, key = place.seal()
    place.miner_keys.add(MODEL, key)
    path = await place.vault.open(record(), sealed, "node0")
    assert {p.name: p.read_bytes() for p in path.iterdir()} == {
        p.name: p.read_bytes() for p in (place.folder / "plain").iterdir()
    }
    for found in (place.folder / "unsealed", path, *path.iterdir()):
        assert stat.S_IMODE(found.stat().st_mode) & 0o077 == 0
    assert place.asked == []


@pytest.mark.parametrize("by_account", [True, False])
async def test_a_model_opens_with_the_key_deposited_on_chain(place: Place, by_account: bool) -> None:
    sealed, key = place.seal()
    public = ACCOUNT.public_key
    recipient = (
        account_recipient(public.format(), address_of(public))
        if by_account
        else node_recipient(peer_encryption_key(SEED))
    )
    place.deposits[MODEL] = wrap_key(key, MODEL, recipient)
    path = await place.vault.open(record(), sealed, "node0")
    assert (path / "config.json").is_file()


async def test_without_a_key_or_with_a_wrong_one_nothing_is_opened_and_the_reason_is_told(place: Place) -> None:
    sealed, key = place.seal()
    with pytest.raises(KeyUnavailableError, match="ask its owner"):
        await place.vault.open(record(), sealed, "node0")
    to_node = node_recipient(peer_encryption_key(SEED))
    wrong = [
        wrap_key(create_content_key(), MODEL, to_node),
        wrap_key(key, ModelId("another"), to_node),
        wrap_key(key, MODEL, node_recipient(peer_encryption_key(bytes([8] * 32)))),
        b"\x02" + bytes(80),
        b"rubbish",
    ]
    for deposit in wrong:
        place.deposits[MODEL] = deposit
        with pytest.raises(KeyUnavailableError, match="does not open"):
            await place.vault.open(record(), sealed, "node0")
    assert place.opened() == []


async def test_a_key_of_another_model_on_this_machine_is_not_used(place: Place) -> None:
    sealed, key = place.seal()
    place.miner_keys.add(ModelId("another"), key)
    with pytest.raises(KeyUnavailableError):
        await place.vault.open(record(), sealed, "node0")


@pytest.mark.parametrize("file", ["00000.sealed", "00001.sealed", "00003.sealed", "listing.sealed"])
async def test_a_flipped_bit_is_an_error_and_nothing_is_left_in_plain(place: Place, file: str) -> None:
    sealed, key = place.seal()
    place.miner_keys.add(MODEL, key)
    data = bytearray((sealed / file).read_bytes())
    data[-20] ^= 4
    (sealed / file).write_bytes(data)
    with pytest.raises(ModelInvalidError, match=file):
        await place.vault.open(record(), sealed, "node0")
    assert place.opened() == []


async def test_what_opens_to_no_valid_model_is_refused_and_removed(place: Place) -> None:
    source = write_model(place.folder / "bad")
    (source / "run.py").write_text("import os")
    sealed = seal_directory(source, place.folder / "staging", place.miner_keys, MODEL).directory.path
    with pytest.raises(ModelInvalidError, match=r"run\.py: code"):
        await place.vault.open(record(), sealed, "node0")
    assert place.opened() == []


async def test_a_model_is_removed_when_the_last_engine_keeps_another(place: Place) -> None:
    first, key = place.seal("1")
    second, other_key = place.seal("2")
    place.miner_keys.add(MODEL, key)
    place.miner_keys.add(MODEL, other_key)
    one, two = record("bafy-one"), record("bafy-two")
    for node in ("node0", "node1"):
        await place.vault.open(one, first, node)
        await place.vault.keep(node, one.cid)
    assert place.opened() == ["opened-bafy-one"]
    await place.vault.open(two, second, "node0")
    assert place.opened() == ["opened-bafy-one", "opened-bafy-two"]  # an engine may still read the old one
    await place.vault.keep("node0", two.cid)
    assert place.opened() == ["opened-bafy-one", "opened-bafy-two"]
    await place.vault.keep("node1", None)
    assert place.opened() == ["opened-bafy-two"]


async def test_plain_models_are_gone_after_the_daemon_however_it_ended(tmp_path: Path) -> None:
    left = tmp_path / "unsealed" / "opened-bafy-crashed"
    left.mkdir(parents=True)
    (tmp_path / "unsealed").chmod(0o700)
    (left / "config.json").write_text("{}")
    (tmp_path / "unsealed" / "mine.txt").write_text("an operator's own")
    async with vault_in(tmp_path) as place:
        assert place.opened() == ["mine.txt"]
        sealed, key = place.seal()
        place.miner_keys.add(MODEL, key)
        await place.vault.open(record(), sealed, "node0")
        assert place.opened() == ["mine.txt", "opened-bafy-one"]
    assert [path.name for path in (tmp_path / "unsealed").iterdir()] == ["mine.txt"]


async def test_a_directory_that_others_can_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "unsealed").mkdir()
    (tmp_path / "unsealed").chmod(0o755)
    with pytest.raises(PrivateFileError, match="chmod 700"):
        async with vault_in(tmp_path):
            pass


async def test_decrypting_stops_when_the_daemon_does_and_leaves_nothing(place: Place) -> None:
    source = write_model(place.folder / "large")
    (source / "vocab.txt").write_bytes(bytes(64 * 2**20))
    sealed = seal_directory(source, place.folder / "staging", place.miner_keys, MODEL).directory.path
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(place.vault.open, record(), sealed, "node0")
            while not place.opened():
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    assert place.opened() == []


# --- through the loader -----------------------------------------------------------------------------------------------


class FakeChain:
    """A chain whose every head shows one model."""

    def __init__(self, model: ModelRecord) -> None:
        self.state = ChainState()
        self.show(model)

    def show(self, model: ModelRecord) -> None:
        self.state.models[model.model_id] = model

    async def heads(self) -> AsyncIterator[Head]:
        while True:
            yield Head(BlockNumber(1), BlockNumber(1))
            await trio.sleep(0.001)


class FakeLibrary:
    """Gives what it was told for each CID."""

    def __init__(self, paths: dict[str, Path]) -> None:
        self.paths = paths
        self.asked: list[str] = []
        self.in_use: Counter[str] = Counter()

    async def ensure(self, model: ModelRecord) -> Path:
        self.asked.append(model.cid)
        self.in_use[model.cid] += 1
        return self.paths[model.cid]

    def release(self, cid: Cid) -> None:
        self.in_use[cid] -= 1


class FakeEngine:
    """Notes what it was asked to load, and what lay in plain then."""

    node_id = "node0"

    def __init__(self, place: Place) -> None:
        self._place = place
        self.loaded: list[tuple[str, list[str]]] = []

    def load(self, model: ModelRecord, path: Path) -> None:
        if model.model_args:
            raise EngineArgumentsError("not allowed")
        assert json.loads((path / "config.json").read_text())["architectures"]
        self.loaded.append((model.cid, self._place.opened()))

    def mine(self, mining: bool) -> None:
        pass

    def explain(self, reason: str) -> None:
        pass

    def load_next(self, model: None) -> None:
        pass


@asynccontextmanager
async def loading(
    place: Place, model: ModelRecord, sealed: Path
) -> AsyncIterator[tuple[FakeEngine, FakeChain, FakeLibrary]]:
    engine, chain, library = FakeEngine(place), FakeChain(model), FakeLibrary({model.cid: sealed})
    parts: Any = (chain, library, place.vault, engine)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ModelLoader(*parts, MODEL).run)
        yield engine, chain, library
        nursery.cancel_scope.cancel()


async def test_an_engine_waits_for_its_key_and_loads_when_it_is_deposited(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_loader, "KEY_RETRY_SECONDS", 0.1)
    sealed, key = place.seal()
    async with loading(place, record(), sealed) as (engine, _, library):
        await until(lambda: len(place.asked) >= 3, 30)
        assert min(after - before for before, after in pairwise(place.asked)) >= 0.1  # and not once per block
        assert engine.loaded == []
        place.deposits[MODEL] = wrap_key(key, MODEL, node_recipient(peer_encryption_key(SEED)))
        await until(lambda: engine.loaded, 30)
        assert +library.in_use == {"bafy-one": 1}


async def test_a_new_version_replaces_the_decrypted_one_on_disk_even_by_a_plain_model(place: Place) -> None:
    first, key = place.seal("1")
    second, other_key = place.seal("2")
    place.miner_keys.add(MODEL, key)
    place.miner_keys.add(MODEL, other_key)
    async with loading(place, record(), first) as (engine, chain, library):
        await until(lambda: engine.loaded, 30)
        library.paths |= {"bafy-two": second, "bafy-plain": write_model(place.folder / "plain")}
        chain.show(record("bafy-two"))
        await until(lambda: place.opened() == ["opened-bafy-two"], 30)
        chain.show(record("bafy-plain", encrypted=False))
        await until(lambda: place.opened() == [], 30)
        assert +library.in_use == {"bafy-plain": 1}
    # the old one is removed only after the engine was told of the new one
    assert engine.loaded == [
        ("bafy-one", ["opened-bafy-one"]),
        ("bafy-two", ["opened-bafy-one", "opened-bafy-two"]),
        ("bafy-plain", ["opened-bafy-two"]),
    ]


async def test_a_damaged_or_unloadable_version_leaves_the_present_one_and_nothing_else_in_plain(place: Place) -> None:
    first, key = place.seal("1")
    second, other_key = place.seal("2")
    place.miner_keys.add(MODEL, key)
    place.miner_keys.add(MODEL, other_key)
    (second / "00003.sealed").write_bytes(b"x")
    async with loading(place, record(), first) as (engine, chain, library):
        await until(lambda: engine.loaded, 30)
        library.paths |= {"bafy-two": second, "bafy-three": first, "bafy-four": first}
        chain.show(record("bafy-two"))
        await until(lambda: "bafy-two" in library.asked, 30)
        chain.show(record("bafy-three", model_args=("--bad",)))
        await until(lambda: "bafy-three" in library.asked, 30)
        chain.show(record("bafy-four"))
        await until(lambda: place.opened() == ["opened-bafy-four"], 30)
        assert +library.in_use == {"bafy-four": 1}
    assert engine.loaded == [
        ("bafy-one", ["opened-bafy-one"]),
        ("bafy-four", ["opened-bafy-four", "opened-bafy-one"]),
    ]
