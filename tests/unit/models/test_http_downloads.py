"""Downloads from web servers: continued, checked, and never led into this machine by a stranger."""

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from pydantic import ValidationError

from node.models.guarded_http import ForbiddenAddressError, GuardedClient, is_public
from node.models.identity import LocalModelId
from node.models.requests import HttpFile, HttpRequest
from node.models.states import ModelStatus
from tests.hub_stand_in import HubStandIn, hub_stand_in
from tests.unit.models.managing import Place, fetched, tree

WEIGHTS = random.Random(2).randbytes(2_000_000)
ID = LocalModelId("custom/release")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def server() -> Iterator[HubStandIn]:
    with hub_stand_in() as running:
        running.releases = {"model.safetensors": WEIGHTS, "config.json": b"{}"}
        yield running


def request_of(server: HubStandIn, **digests: str) -> HttpRequest:
    files = [
        HttpFile(url=f"{server.cdn_url}/release/{name}", sha256=digests.get(name.partition(".")[0], sha256(data)))
        for name, data in server.releases.items()
    ]
    return HttpRequest(model_id=ID, files=files)


async def test_files_come_with_their_names_and_checksums(server: HubStandIn, tmp_path: Path) -> None:
    place = Place(tmp_path)
    async with place.manager() as manager:
        progress = await fetched(manager, request_of(server))
        recorded = {file.path: file.sha256 for file in manager.registry.files(ID)}
    assert progress.status is ModelStatus.AVAILABLE, progress.message
    assert tree(place.models / ID) == server.releases
    assert recorded == {name: sha256(data) for name, data in server.releases.items()}


async def test_a_cut_costs_only_what_was_not_yet_here(server: HubStandIn, tmp_path: Path) -> None:
    server.faults.cut_after["model.safetensors"] = [700_000, 700_000]
    place = Place(tmp_path)
    async with place.manager() as manager:
        assert (await fetched(manager, request_of(server))).status is ModelStatus.AVAILABLE
    assert tree(place.models / ID) == server.releases
    assert server.sent["model.safetensors"] < len(WEIGHTS) + 2 * 1024 * 1024


async def test_a_file_that_changes_between_two_pieces_is_begun_anew(server: HubStandIn, tmp_path: Path) -> None:
    other = random.Random(3).randbytes(2_000_000)
    server.faults.stall_after["model.safetensors"] = [1_500_000]
    place = Place(tmp_path)
    # No digest vouches for the file here, as over https: only its ETag tells the two apart.
    files = [HttpFile.model_construct(url=f"{server.cdn_url}/release/model.safetensors", sha256=None, path=None)]
    request = HttpRequest.model_construct(
        source="http", model_id=ID, files=files, include=[], exclude=[], model_type=None
    )
    async with place.manager() as manager:
        manager.download(request, "test")
        with trio.fail_after(20):
            while manager.progress(ID).bytes_done < 1_000_000:
                await trio.sleep(0.01)
        server.releases["model.safetensors"] = other
        manager.cancel(ID, "test")
        with trio.fail_after(20):
            while manager.progress(ID).status is ModelStatus.DOWNLOADING or manager._downloads.model_ids:
                await trio.sleep(0.01)
        progress = await fetched(manager, request)
    assert progress.status is ModelStatus.AVAILABLE, progress.message
    assert tree(place.models / ID) == {"model.safetensors": other}


async def test_bytes_that_are_not_those_promised_never_become_a_model(server: HubStandIn, tmp_path: Path) -> None:
    place = Place(tmp_path)
    async with place.manager() as manager:
        progress = await fetched(manager, request_of(server, model="0" * 64))
    assert progress.status is ModelStatus.ERROR and "promised" in progress.message
    assert not (place.models / ID).exists()


async def test_a_missing_file_is_told_at_once(server: HubStandIn, tmp_path: Path) -> None:
    request = request_of(server)
    del server.releases["config.json"]
    async with Place(tmp_path).manager() as manager:
        progress = await fetched(manager, request)
    assert progress.status is ModelStatus.ERROR and "404" in progress.message
    assert server.sent["model.safetensors"] == 0


async def test_this_machine_is_not_asked_unless_the_operator_allows_it(server: HubStandIn, tmp_path: Path) -> None:
    place = Place(tmp_path, private_allowed=False)
    async with place.manager() as manager:
        progress = await fetched(manager, request_of(server))
    assert progress.status is ModelStatus.ERROR and "private_addresses_allowed" in progress.message
    assert not server.cdn_requests


@pytest.mark.parametrize("target", ["http://127.0.0.1:1/x", "http://[::1]:1/x", "http://localhost:1/x", "file:///x"])
async def test_a_redirect_into_this_machine_is_not_followed(
    server: HubStandIn, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    server.redirects["/release/a"] = target
    client = GuardedClient()
    # The first host counts as public, as a real one would be; the check of what it redirects to is the real one.
    first = server.cdn_url.rpartition(":")[2]
    real = client._addresses

    async def addresses(host: str, port: int) -> list[str]:
        return ["127.0.0.1"] if host == "public.example" and port == int(first) else await real(host, port)

    monkeypatch.setattr(client, "_addresses", addresses)
    with pytest.raises(ForbiddenAddressError):
        async with client.open("GET", f"http://public.example:{first}/release/a"):
            pass
    await client.aclose()
    assert [path for _, path, _ in server.cdn_requests] == ["/release/a"]


async def test_redirects_do_not_go_on_for_ever(server: HubStandIn) -> None:
    server.redirects["/release/a"] = f"{server.cdn_url}/release/a"
    client = GuardedClient(private_allowed=True)
    with pytest.raises(ForbiddenAddressError, match="5 redirects"):
        async with client.open("GET", f"{server.cdn_url}/release/a"):
            pass
    await client.aclose()


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True), ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("127.0.0.1", False), ("10.1.2.3", False), ("192.168.1.1", False), ("169.254.169.254", False),
        ("100.64.0.1", False), ("0.0.0.0", False), ("224.0.0.1", False), ("255.255.255.255", False),
        ("::1", False), ("::", False), ("fe80::1%eth0", False), ("fd00::1", False), ("ff02::1", False),
        ("::ffff:127.0.0.1", False), ("::ffff:8.8.8.8", True), ("2002:7f00:1::", False),
        ("64:ff9b::7f00:1", False), ("64:ff9b::808:808", True), ("not an address", False),
    ],
)  # fmt: skip
def test_addresses_of_this_machine_and_its_network_are_known(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ({"url": "http://host/a.safetensors"}, "give its sha256"),
        ({"url": "https://user:secret@host/a"}, "password"),
        ({"url": "ftp://host/a"}, "expected a URL"),
        ({"url": "https://host/a/%2e%2e"}, "file name"),
        ({"url": "https://host/"}, "file name"),
        ({"url": "https://host/a", "path": "/etc/passwd"}, "file name"),
    ],
)
def test_a_request_that_cannot_be_safe_is_refused(file: dict[str, str], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        HttpRequest.model_validate({"model_id": ID, "files": [file]})


def test_a_checksum_may_stand_in_the_address() -> None:
    assert HttpFile(url=f"https://host/a#sha256={'0' * 64}").digest == "0" * 64
