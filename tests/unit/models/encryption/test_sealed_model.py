"""Encrypted models as directories: sealed resumably, checked without the key, opened whole or not at all."""

import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from node.models.encryption import sealing
from node.models.encryption.container import SealBrokenError, SourceChangedError, WrongKeyError, seal_file
from node.models.encryption.directory import (
    LISTING_FILE,
    LISTING_PATH,
    PUBLIC_FILE,
    ListedFile,
    SealedDirectory,
    container_name,
    open_directory,
    read_listing,
    read_range,
    read_sealed,
    render_listing,
    render_public_file,
)
from node.models.encryption.keyring import KeyRing, KeyRingError
from node.models.encryption.keys import SALT_BYTES, ContentKey, create_content_key
from node.models.encryption.sealing import SealingError, seal_directory
from node.protocol.identifiers import ModelId

MODEL = ModelId("team/secret")
FILES = {"config.json": b"{}", "model.safetensors": bytes(3_000_000), "sub/model.safetensors": b"x", "empty.txt": b""}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name, data in FILES.items():
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (tmp_path / "source" / ".cache").mkdir()
    (tmp_path / "source" / ".cache" / "note").write_bytes(b"not published")
    return tmp_path / "source"


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    return KeyRing(tmp_path / "keys")


def only_key(ring: KeyRing) -> ContentKey:
    (held,) = ring.held()
    assert held.model_id == MODEL
    return held.key


def bytes_of(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def opened(sealed: SealedDirectory, key: ContentKey, destination: Path) -> dict[str, bytes]:
    destination.mkdir()
    open_directory(sealed, destination, key)
    return bytes_of(destination)


def test_a_model_opens_as_it_was_and_its_names_are_not_in_public(source: Path, ring: KeyRing, tmp_path: Path) -> None:
    sealed = seal_directory(source, tmp_path / "staging", ring, MODEL)
    assert not sealed.resumed
    assert sorted(bytes_of(sealed.directory.path)) == sorted(
        [*(container_name(index) for index in range(4)), LISTING_FILE, PUBLIC_FILE]
    )
    for data in bytes_of(sealed.directory.path).values():
        assert not any(word in data for word in (b"config", b"safetensors", MODEL.encode()))
    assert opened(sealed.directory, only_key(ring), tmp_path / "plain") == FILES


def test_what_is_opened_is_readable_by_its_owner_alone(source: Path, ring: KeyRing, tmp_path: Path) -> None:
    sealed = seal_directory(source, tmp_path / "staging", ring, MODEL)
    opened(sealed.directory, only_key(ring), tmp_path / "plain")
    for path in (tmp_path / "plain").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    for path in (tmp_path / "keys").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_range_of_a_file_opens_without_the_others(source: Path, ring: KeyRing, tmp_path: Path) -> None:
    sealed = seal_directory(source, tmp_path / "staging", ring, MODEL).directory
    weights = sealed.containers[[file.path for file in read_listing(sealed, only_key(ring))].index("model.safetensors")]
    for container in sealed.containers:
        if container != weights:
            container.unlink()
    assert read_range(sealed, only_key(ring), "model.safetensors", 2_999_990, 50) == bytes(10)


def test_the_same_content_again_is_the_same_ciphertext_and_other_content_has_another_key(
    source: Path, ring: KeyRing, tmp_path: Path
) -> None:
    first = seal_directory(source, tmp_path / "staging", ring, MODEL)
    before = bytes_of(first.directory.path)
    again = seal_directory(source, tmp_path / "staging", ring, MODEL)
    assert (again.resumed, bytes_of(again.directory.path)) == (True, before)
    (source / "config.json").write_bytes(b"{ }")
    other = seal_directory(source, tmp_path / "staging", ring, MODEL)
    assert other.key_id != first.key_id
    assert bytes_of(first.directory.path) == before


def test_a_new_key_can_be_asked_for_and_is_the_one_from_then_on(source: Path, ring: KeyRing, tmp_path: Path) -> None:
    first = seal_directory(source, tmp_path / "staging", ring, MODEL)
    second = seal_directory(source, tmp_path / "staging", ring, MODEL, new_key=True)
    assert second.key_id != first.key_id
    assert seal_directory(source, tmp_path / "staging", ring, MODEL).key_id == second.key_id
    assert first.directory.path.is_dir()  # the earlier version may still be served


class CutOffError(Exception):
    pass


@pytest.mark.parametrize("stop_at", range(1, 10))
def test_sealing_that_was_cut_off_goes_on_with_its_key_and_ends_whole(
    source: Path, ring: KeyRing, tmp_path: Path, stop_at: int
) -> None:
    calls = 0

    def advance(_: int) -> None:
        nonlocal calls
        calls += 1
        if calls == stop_at:
            raise CutOffError

    with pytest.raises(CutOffError):
        seal_directory(source, tmp_path / "staging", ring, MODEL, advance=advance)
    before = {path: path.read_bytes() for path in (tmp_path / "staging").rglob("*.sealed")}
    for path in before:  # never ciphertext on disk whose key is not
        assert path.stat().st_size
        only_key(ring)
    sealed = seal_directory(source, tmp_path / "staging", ring, MODEL)
    for path, data in before.items():
        assert path.read_bytes() == data
    assert opened(sealed.directory, only_key(ring), tmp_path / "plain") == FILES


def test_a_half_sealed_file_is_never_continued_under_its_salt(source: Path, ring: KeyRing, tmp_path: Path) -> None:
    partial: list[bytes] = []

    def advance(_: int) -> None:
        for path in (tmp_path / "staging").rglob(sealing.PARTIAL_FILE):
            if path.stat().st_size > 2**20:
                partial.append(path.read_bytes())
                raise CutOffError

    with pytest.raises(CutOffError):
        seal_directory(source, tmp_path / "staging", ring, MODEL, advance=advance)
    sealed = seal_directory(source, tmp_path / "staging", ring, MODEL)
    chunk = partial[0][200:1000]
    assert not any(chunk in data for data in bytes_of(sealed.directory.path).values())


def test_a_file_that_changes_between_hashing_and_sealing_is_not_published(
    source: Path, ring: KeyRing, tmp_path: Path
) -> None:
    calls = 0

    def advance(_: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:  # chunks to hash: 1 for config.json, 0 for the empty file, 3 for the weights
            (source / "config.json").write_bytes(b"[]")

    with pytest.raises(SourceChangedError, match=r"config\.json changed"):
        seal_directory(source, tmp_path / "staging", ring, MODEL, advance=advance)
    assert not list((tmp_path / "staging").rglob(PUBLIC_FILE))


def test_a_lost_key_is_told_instead_of_a_new_one_being_made(source: Path, ring: KeyRing, tmp_path: Path) -> None:
    seal_directory(source, tmp_path / "staging", ring, MODEL)
    shutil.rmtree(tmp_path / "keys")
    with pytest.raises(KeyRingError, match="Restore it from your backup"):
        seal_directory(source, tmp_path / "staging", ring, MODEL)


def test_two_runs_at_once_are_refused(source: Path, ring: KeyRing, tmp_path: Path) -> None:
    def advance(_: int) -> None:
        with pytest.raises(SealingError, match="another run"):
            seal_directory(source, tmp_path / "staging", ring, MODEL)

    seal_directory(source, tmp_path / "staging", ring, MODEL, advance=advance)


def swap(a: Path, b: Path) -> None:
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)


def flip(path: Path, offset: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda d: (d / PUBLIC_FILE).unlink(), "no encrypted model"),
        (lambda d: (d / PUBLIC_FILE).write_text("{}"), "damaged"),
        (lambda d: (d / PUBLIC_FILE).write_text("[" * 4000), "damaged"),
        (lambda d: (d / PUBLIC_FILE).write_bytes(bytes(5000)), "more than 4096"),
        (lambda d: (d / LISTING_FILE).unlink(), "listing.sealed is missing"),
        (lambda d: (d / "00001.sealed").unlink(), "00001.sealed is missing"),
        (lambda d: (d / "00003.sealed").unlink(), "names 4 files, 3 are there"),
        (lambda d: (d / "config.json").write_text("{}"), "config.json does not belong"),
        (lambda d: (d / "link").symlink_to("/etc/passwd"), "link does not belong"),
        (lambda d: (d / "folder").mkdir(), "folder does not belong"),
        (lambda d: swap(d / "00000.sealed", d / "00003.sealed"), "exchanged"),
        (lambda d: flip(d / "00002.sealed"), "00002.sealed: chunk"),
        (lambda d: flip(d / LISTING_FILE), "listing.sealed: chunk 0"),
        (lambda d: os.truncate(d / "00002.sealed", 1000), "00002.sealed: it has 1000 bytes"),
    ],
)
def test_whatever_is_wrong_with_a_sealed_model_is_named_and_nothing_is_opened(
    source: Path, ring: KeyRing, tmp_path: Path, spoil: Callable[[Path], object], named: str
) -> None:
    directory = seal_directory(source, tmp_path / "staging", ring, MODEL).directory.path
    spoil(directory)
    with pytest.raises(SealBrokenError, match=named):
        opened(read_sealed(directory), only_key(ring), tmp_path / "plain")


def test_another_key_opens_nothing_and_is_named(source: Path, ring: KeyRing, tmp_path: Path) -> None:
    sealed = seal_directory(source, tmp_path / "staging", ring, MODEL).directory
    with pytest.raises(WrongKeyError, match="encrypted with key"):
        opened(sealed, create_content_key(), tmp_path / "plain")
    assert bytes_of(tmp_path / "plain") == {}


def test_an_older_file_of_the_same_name_and_key_is_not_taken(source: Path, ring: KeyRing, tmp_path: Path) -> None:
    sealed = seal_directory(source, tmp_path / "staging", ring, MODEL).directory
    old = tmp_path / "old"
    seal_file(source / "config.json", old, "config.json", only_key(ring))
    old.rename(sealed.containers[0])
    with pytest.raises(SealBrokenError, match="not the file that the listing means"):
        opened(read_sealed(sealed.path), only_key(ring), tmp_path / "plain")


def hostile(folder: Path, listing: bytes) -> SealedDirectory:
    """Return a directory with a listing that an owner who means harm made."""
    key = ContentKey(bytes(32))
    folder.mkdir()
    (folder / PUBLIC_FILE).write_bytes(render_public_file(key.key_id))
    plain = folder.parent / "plain-listing"
    plain.write_bytes(listing)
    seal_file(plain, folder / LISTING_FILE, LISTING_PATH, key)
    seal_file(plain, folder / container_name(0), "x", key)
    return read_sealed(folder)


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("../x", "unsafe file name"),
        ("/etc/passwd", "unsafe file name"),
        ("a//b", "unsafe file name"),
        ("", "unsafe file name"),
        ("a/../../x", "unsafe file name"),
        (".profile", "hidden"),
        ("a\nb", "unprintable"),
        ("x" * 300, "300 bytes"),
        ("/".join("a" * 20), "too long"),
    ],
)
def test_a_listing_cannot_name_a_place_outside_the_model(tmp_path: Path, path: str, named: str) -> None:
    sealed = hostile(tmp_path / "sealed", render_listing([ListedFile(path, 1, bytes(SALT_BYTES))]))
    with pytest.raises(SealBrokenError, match=named):
        read_listing(sealed, ContentKey(bytes(32)))


@pytest.mark.parametrize(
    ("listing", "named"),
    [
        (b"", "cannot be read"),
        (b"\xff" * 40, "cannot be read"),
        (render_listing([]), "version 1"),
        (render_listing([ListedFile("a", 1, b""), ListedFile("a", 1, b"")]), "twice"),
        (render_listing([ListedFile("b", 1, b""), ListedFile("a", 1, b"")]), "not in order"),
        (render_listing([ListedFile("a", 1, b""), ListedFile("a/b", 1, b"")]), "a file and a directory"),
        (render_listing([ListedFile("a", -1, b"")]), "no file"),
        (render_listing([ListedFile("a", True, b"")]), "no file"),
    ],
)
def test_a_malformed_listing_is_refused(tmp_path: Path, listing: bytes, named: str) -> None:
    with pytest.raises(SealBrokenError, match=named):
        read_listing(hostile(tmp_path / "sealed", listing), ContentKey(bytes(32)))


def test_a_model_that_does_not_fit_the_disk_is_refused_before_a_byte_is_written(
    source: Path, ring: KeyRing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed = seal_directory(source, tmp_path / "staging", ring, MODEL).directory
    monkeypatch.setattr("node.models.encryption.directory.FREE_BYTES_KEPT", 2**60)
    with pytest.raises(OSError, match="make room"):
        opened(sealed, only_key(ring), tmp_path / "plain")
    assert bytes_of(tmp_path / "plain") == {}


def test_a_killed_run_is_finished_by_the_next_one_with_its_key(source: Path, ring: KeyRing, tmp_path: Path) -> None:
    (source / "vocab.txt").write_bytes(bytes(200 * 2**20))
    program = (
        "import sys; from pathlib import Path; from node.models.encryption.keyring import KeyRing;"
        "from node.models.encryption.sealing import seal_directory; folder = Path(sys.argv[1]);"
        "seal_directory(folder / 'source', folder / 'staging', KeyRing(folder / 'keys'), sys.argv[2])"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path), MODEL])
    try:
        deadline = time.monotonic() + 60
        while not list((tmp_path / "staging").rglob(container_name(0))):
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.001)
    finally:
        process.kill()
        process.wait()
    before = {path: path.read_bytes() for path in (tmp_path / "staging").rglob("*.sealed")}
    assert not list((tmp_path / "staging").rglob(PUBLIC_FILE))
    sealed = seal_directory(source, tmp_path / "staging", ring, MODEL)
    assert sealed.resumed
    assert {path: path.read_bytes() for path in before} == before
    assert opened(sealed.directory, only_key(ring), tmp_path / "plain") == {
        **FILES,
        "vocab.txt": (source / "vocab.txt").read_bytes(),
    }
