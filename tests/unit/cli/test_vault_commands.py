"""`quern vault`: keys come in and go out wrapped, what is refused is told, and no key is ever printed by the way."""

import json
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from eth_account import Account

from node.cli.main import quern
from node.keys import create_account_key, create_peer_key, load_peer_seed
from node.models.encryption.keyring import HeldKey, KeyRing, WrappedKey, parse_key, render_key
from node.models.encryption.keys import ContentKey, create_content_key
from node.models.encryption.sealing import seal_directory
from node.models.encryption.wrapping import peer_encryption_key
from node.private_files import create_private_file
from node.protocol.identifiers import ModelId

MODEL = ModelId("team/secret")
PASSPHRASE = "long enough"


def run(*arguments: str | Path, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(quern, [str(argument) for argument in arguments], input=stdin)


class Node:
    """A data directory with keys of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        # Two rounds of the key derivation only: a real keystore takes a second each time.
        keystore = Account.encrypt(create_account_key().secret, PASSPHRASE, iterations=2)
        create_private_file(directory / "account.json", json.dumps(keystore).encode())
        create_private_file(directory / "passphrase", PASSPHRASE.encode())
        create_peer_key(directory / "peer.key")
        (directory / "quern.toml").write_text('[account]\npassphrase_file = "passphrase"\n')

    def vault(self, command: str, *arguments: str | Path, stdin: bytes | None = None) -> Result:
        return run("vault", command, *arguments, "--data-dir", self.directory, stdin=stdin)

    @property
    def ring(self) -> KeyRing:
        return KeyRing(self.directory / "model-keys")


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Node:
    return Node(tmp_path_factory.mktemp("owner") / "node")


@pytest.fixture(scope="module")
def miner(tmp_path_factory: pytest.TempPathFactory) -> Node:
    return Node(tmp_path_factory.mktemp("miner") / "node")


@pytest.fixture
def key(owner: Node) -> ContentKey:
    key = create_content_key()
    owner.ring.add(MODEL, key)
    return key


def public_of(node: Node, *options: str) -> dict[str, str]:
    result = node.vault("public-key", "--json", *options)
    assert result.exit_code == 0, result.output
    facts: dict[str, str] = json.loads(result.stdout)
    return facts


def test_public_keys_are_printed_and_the_accounts_only_with_its_passphrase(miner: Node) -> None:
    facts = public_of(miner)
    seed = load_peer_seed(miner.directory / "peer.key")
    assert facts["encryption_key"] == "0x" + peer_encryption_key(seed).hex()
    assert "account_public_key" not in facts
    assert len(public_of(miner, "--account")["account_public_key"]) == 2 + 66
    assert facts["peer_id"] in miner.vault("public-key").stdout


@pytest.mark.parametrize("kind", ["peer", "encryption-key", "account"])
def test_a_key_wrapped_for_a_node_is_taken_in_by_that_node_alone(
    owner: Node, miner: Node, key: ContentKey, tmp_path: Path, kind: str
) -> None:
    facts = public_of(miner, "--account")
    options = {
        "peer": ("--for-peer", facts["peer_id"]),
        "encryption-key": ("--for-encryption-key", facts["encryption_key"]),
        "account": ("--for-account", facts["account"], facts["account_public_key"]),
    }[kind]
    exported = owner.vault("export-key", key.key_id.hex(), *options, "--output", tmp_path / "wrapped.json")
    assert exported.exit_code == 0, exported.output
    file = (tmp_path / "wrapped.json").read_bytes()
    assert key.secret.hex().encode() not in file
    refused = Node(tmp_path / "other").vault("import-key", tmp_path / "wrapped.json")
    assert (refused.exit_code, "was not made for this" in refused.stderr) == (1, True)
    taken = miner.vault("import-key", "-", stdin=file)
    assert taken.exit_code == 0, taken.output
    assert miner.ring.find(key.key_id) == HeldKey(MODEL, key)
    assert key.secret.hex() not in taken.output + exported.output


def test_a_backup_is_private_and_comes_back(owner: Node, key: ContentKey, tmp_path: Path) -> None:
    output = tmp_path / "backup.json"
    assert owner.vault("export-key", key.key_id.hex(), "--plain", "--output", output).exit_code == 0
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    again = owner.vault("export-key", key.key_id.hex(), "--plain", "--output", output)
    assert (again.exit_code, "exists already" in again.stderr) == (1, True)
    restored = Node(tmp_path / "restored")
    assert restored.vault("import-key", output).exit_code == 0
    assert restored.ring.find(key.key_id) == HeldKey(MODEL, key)


def test_keys_are_listed_by_id_and_chosen_by_its_beginning_or_by_their_model(tmp_path: Path) -> None:
    node = Node(tmp_path / "node")
    assert "no keys" in node.vault("keys").stdout
    first, second = create_content_key(), create_content_key()
    node.ring.add(MODEL, first)
    node.ring.add(ModelId("other"), second)
    listed = node.vault("keys")
    assert first.key_id.hex() in listed.stdout
    assert first.secret.hex() not in listed.stdout
    assert {entry["model_id"] for entry in json.loads(node.vault("keys", "--json").stdout)["keys"]} == {MODEL, "other"}
    for name in (first.key_id.hex()[:12], MODEL):
        printed = node.vault("export-key", name, "--for-peer", public_of(node)["peer_id"]).stdout
        wrapped = parse_key(printed.encode(), "printed")
        assert isinstance(wrapped, WrappedKey)
        assert wrapped.key_id == first.key_id
    ambiguous = node.vault("export-key", "", "--plain")
    assert (ambiguous.exit_code, "means 2 keys" in ambiguous.stderr) == (1, True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--for-peer", "nobody"), "no peer id"),
        (("--for-peer", "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"), "not an Ed25519 key"),
        (("--for-encryption-key", "0x" + "00" * 32), "not all zero"),
        (("--for-encryption-key", "xyz"), "not hex"),
        (("--for-account", "0x" + "ab" * 20, "02" * 33), "checksummed"),
        (("--for-account", "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A", "00" * 33), "no secp256k1 public key"),
    ],
)
def test_who_cannot_be_wrapped_for_is_told(owner: Node, key: ContentKey, options: tuple[str, ...], words: str) -> None:
    result = owner.vault("export-key", key.key_id.hex(), *options)
    assert (result.exit_code, words in result.stderr) == (1, True), result.output


@pytest.mark.parametrize("file", [b"", b"{}", b"\xff" * 100, b"[" * 60_000])
def test_what_is_no_key_file_is_refused(miner: Node, file: bytes) -> None:
    result = miner.vault("import-key", "-", stdin=file)
    assert (result.exit_code, "is not a key file" in result.stderr) == (1, True), result.output


def test_an_export_must_say_for_whom(owner: Node, key: ContentKey) -> None:
    assert owner.vault("export-key", key.key_id.hex()).exit_code == 2
    assert owner.vault("export-key", key.key_id.hex(), "--plain", "--for-peer", "x").exit_code == 2


def test_a_model_is_opened_whole_or_not_at_all(owner: Node, miner: Node, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "config.json").write_text("{}")
    sealed = seal_directory(tmp_path / "source", tmp_path / "staging", owner.ring, MODEL)
    opened = owner.vault("open", sealed.directory.path, tmp_path / "opened")
    assert opened.exit_code == 0, opened.output
    assert (tmp_path / "opened" / "config.json").read_text() == "{}"
    again = owner.vault("open", sealed.directory.path, tmp_path / "opened")
    assert (again.exit_code, "exists already" in again.stderr) == (1, True)
    locked = miner.vault("open", sealed.directory.path, tmp_path / "locked")
    assert (locked.exit_code, "quern vault import-key" in locked.stderr) == (1, True)
    container = sealed.directory.containers[0]
    container.write_bytes(container.read_bytes()[:-1] + b"\0")
    broken = owner.vault("open", sealed.directory.path, tmp_path / "broken")
    assert (broken.exit_code, "cannot be decrypted" in broken.stderr) == (1, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["opened", "source", "staging"]


def test_a_key_that_others_can_read_is_not_used(owner: Node, tmp_path: Path) -> None:
    node = Node(tmp_path / "node")
    key = create_content_key()
    node.ring.add(MODEL, key)
    (node.directory / "model-keys" / f"{key.key_id.hex()}.json").chmod(0o640)
    result = node.vault("keys")
    assert (result.exit_code, "chmod 600" in result.stderr) == (1, True)
    assert render_key(HeldKey(MODEL, key)).decode() not in result.output
