"""`quern ipfs` and `quern content` on a store of their own: what they print, and what they refuse."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from node.cli.main import quern
from node.control.content_methods import content_method_table
from node.operations.content import StoreOperations
from p2p.content.blockstore import BlockStore
from p2p.content.cid import Cid
from p2p.content.unixfs_import import Layout, import_path
from tests.unit.control.serving import serving


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    path = tmp_path / "quern"
    BlockStore(path / "content").close()
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    (path / "sub").mkdir(parents=True)
    (path / "config.json").write_text('{"a": 1}')
    (path / "sub" / "weights").write_bytes(os.urandom(5_120_000))
    (path / ".cache").write_text("hidden")
    return path


def run(data_dir: Path, *arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(quern, [*arguments, "--data-dir", str(data_dir)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def cid_of(path: Path, layout: Layout | None = None, *, hidden: bool = False) -> str:
    return str(import_path(path, Cid.of, layout or Layout(), include_hidden=hidden).cid)


def test_add_prints_the_cid_and_pins_it_and_says_what_it_left_out(data_dir: Path, model: Path) -> None:
    result = run(data_dir, "ipfs", "add", str(model))
    root = result.stdout.strip()
    assert root == cid_of(model)
    assert "left out 1" in result.stderr
    assert "kept in place" in result.stderr
    assert root in run(data_dir, "ipfs", "pin").stdout
    usage = json.loads(run(data_dir, "content", "usage", "--json").stdout)
    assert usage["leaf_bytes"] == 8 + 5_120_000
    assert usage["block_bytes"] < 2000


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[tuple[Path, BlockStore]]:
    """A control server in a thread of its own, with a store that only it was told of."""
    path, store = tmp_path / "control.sock", BlockStore(tmp_path / "daemons")
    with serving(path, content_method_table(StoreOperations(store, None))):
        yield path, store
    store.close()


def test_a_running_daemon_does_the_work(daemon: tuple[Path, BlockStore], data_dir: Path, model: Path) -> None:
    path, store = daemon
    root = run(data_dir, "ipfs", "add", str(model), "--socket", str(path)).stdout.strip()
    assert store.has(Cid.parse(root))
    weights = run(data_dir, "ipfs", "cat", f"{root}/sub/weights", "--socket", str(path)).stdout_bytes
    assert weights == (model / "sub" / "weights").read_bytes()
    assert "not all of" in run(data_dir, "ipfs", "ls", root, "--offline", code=1).stderr
    assert "no 'x'" in run(data_dir, "ipfs", "ls", f"{root}/x", "--socket", str(path), code=1).stderr


def test_add_with_copies_survives_the_loss_of_the_files(data_dir: Path, model: Path) -> None:
    weights = (model / "sub" / "weights").read_bytes()
    root = run(data_dir, "ipfs", "add", "--copy", "--hidden", str(model)).stdout.strip()
    assert root == cid_of(model, hidden=True)
    (model / "sub" / "weights").unlink()
    assert run(data_dir, "ipfs", "cat", f"{root}/sub/weights").stdout_bytes == weights


@pytest.mark.parametrize(
    ("options", "layout"), [((), Layout()), (("--chunk-size", "1000", "--width", "3"), Layout(1000, 3))]
)
def test_only_hash_keeps_nothing_and_needs_no_store(
    tmp_path: Path, model: Path, options: tuple[str, ...], layout: Layout
) -> None:
    absent = tmp_path / "absent"
    assert run(absent, "ipfs", "add", "--only-hash", *options, str(model)).stdout.strip() == cid_of(model, layout)
    assert not absent.exists()


def test_what_was_added_is_listed_read_and_described(data_dir: Path, model: Path, tmp_path: Path) -> None:
    root = run(data_dir, "ipfs", "add", str(model)).stdout.strip()
    listing = json.loads(run(data_dir, "ipfs", "ls", root, "--json").stdout)
    assert [(entry["name"], entry["kind"], entry["file_bytes"]) for entry in listing["entries"]] == [
        ("config.json", "file", 8),
        ("sub", "directory", None),
    ]
    assert "weights" in run(data_dir, "ipfs", "ls", f"/ipfs/{root}/sub").stdout
    assert run(data_dir, "ipfs", "cat", f"ipfs://{root}/config.json").stdout_bytes == b'{"a": 1}'
    stat = json.loads(run(data_dir, "ipfs", "stat", root, "--json").stdout)
    assert stat["whole"]
    assert stat["pins"] == ["added"]
    assert "directory" in run(data_dir, "ipfs", "stat", root).stdout
    run(data_dir, "ipfs", "get", root, "--output", str(tmp_path / "copy"))
    assert (tmp_path / "copy" / "sub" / "weights").read_bytes() == (model / "sub" / "weights").read_bytes()
    assert not (tmp_path / "copy" / ".cache").exists()
    assert "exists" in run(data_dir, "ipfs", "get", root, "-o", str(tmp_path / "copy"), code=1).stderr


def test_a_large_directory_is_listed_to_its_end(data_dir: Path, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.mkdir()
    for number in range(2300):
        (large / f"{number:05d}").touch()
    root = run(data_dir, "ipfs", "add", "--copy", str(large)).stdout.strip()
    listing = json.loads(run(data_dir, "ipfs", "ls", root, "--json").stdout)
    assert len({entry["name"] for entry in listing["entries"]}) == 2300


def test_names_of_publishers_cannot_write_to_the_terminal(data_dir: Path, tmp_path: Path) -> None:
    directory = tmp_path / "hostile"
    directory.mkdir()
    (directory / "red\x1b[31m\n").touch()
    root = run(data_dir, "ipfs", "add", str(directory)).stdout.strip()
    shown = run(data_dir, "ipfs", "ls", root).stdout
    assert "\x1b" not in shown
    assert "\\x1b[31m" in shown


def test_pins_are_made_named_and_removed(data_dir: Path, model: Path) -> None:
    root = run(data_dir, "ipfs", "add", str(model)).stdout.strip()
    run(data_dir, "ipfs", "pin", root, "--name", "mine")
    assert "still kept as: added" in run(data_dir, "ipfs", "unpin", root, "--name", "mine").stdout
    assert "its pins: added" in run(data_dir, "ipfs", "unpin", root, code=1).stderr
    assert run(data_dir, "ipfs", "unpin", root, "--name", "added").stdout.strip() == "unpinned"
    assert "removed 3 blocks" in run(data_dir, "content", "gc", "--grace-hours", "0").stdout
    assert "not all of" in run(data_dir, "ipfs", "ls", root, code=1).stderr
    assert (model / "config.json").exists()


def test_a_rotten_disk_is_found_named_and_repaired(data_dir: Path, model: Path) -> None:
    root = run(data_dir, "ipfs", "add", "--copy", str(model)).stdout.strip()
    assert "0 damaged" in run(data_dir, "content", "verify").stdout
    block = next(path for path in (data_dir / "content").glob("??/b*") if path.stat().st_size == 8)
    block.write_bytes(b"rotten!!")
    found = run(data_dir, "content", "verify", code=1).stdout
    assert "1 damaged" in found
    assert block.name in found
    assert "--repair" in found
    repaired = run(data_dir, "content", "verify", "--repair", code=1).stdout
    assert f"not whole: {root}" in repaired
    again = json.loads(run(data_dir, "content", "verify", "--json").stdout)
    assert (again["damaged"], again["incomplete"]) == (0, [root])
    assert not json.loads(run(data_dir, "ipfs", "stat", root, "--json").stdout)["whole"]


def test_an_edited_file_is_said_to_be_no_longer_held(data_dir: Path, model: Path) -> None:
    root = run(data_dir, "ipfs", "add", str(model)).stdout.strip()
    (model / "config.json").write_text('{"a": 2}')
    assert "not all of" in run(data_dir, "ipfs", "cat", f"{root}/config.json", code=1).stderr
    assert "changed" in run(data_dir, "content", "verify", code=1).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ls", "nonsense"), "no path to content"),
        (("cat", "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH"), "version 1"),
        (("stat", "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"), "not all of"),
        (("get", "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy/.."), "unsafe"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(data_dir: Path, arguments: tuple[str, ...], message: str) -> None:
    result = run(data_dir, "ipfs", *arguments, "--offline", code=1)
    assert message in result.stderr
    assert result.stdout == ""


def test_paths_that_lead_nowhere_are_named(data_dir: Path, model: Path) -> None:
    root = run(data_dir, "ipfs", "add", str(model)).stdout.strip()
    assert "no 'absent'" in run(data_dir, "ipfs", "cat", f"{root}/absent", code=1).stderr
    assert "is a file" in run(data_dir, "ipfs", "cat", f"{root}/config.json/x", code=1).stderr
    assert "is a directory" in run(data_dir, "ipfs", "cat", root, code=1).stderr


def test_symbolic_links_are_refused(data_dir: Path, model: Path) -> None:
    (model / "link").symlink_to("/etc/passwd")
    for option in ((), ("--only-hash",)):
        assert "symbolic link" in run(data_dir, "ipfs", "add", *option, str(model), code=1).stderr


def test_without_a_store_the_way_to_one_is_told(tmp_path: Path) -> None:
    assert "quern init" in run(tmp_path / "absent", "content", "usage", code=1).stderr
