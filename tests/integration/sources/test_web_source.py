"""Public gateways: their blocks are taken, and nothing they answer leads anywhere else."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from p2p.content.cid import Cid, Codec
from p2p.content.source import Rank, SourceFailedError
from p2p.content.web_source import REDIRECTS_MAX, WebGatewaySource, is_public
from tests.integration.sources.servers import Reply, Request, certificates, server_of

DATA = b"a block"
CID = Cid.of(Codec.RAW, DATA)
MAX = 1000


async def loopback(_host: str, _port: int) -> Sequence[str]:
    return ["127.0.0.1"]


async def test_a_block_is_asked_for_as_the_trustless_gateway_specification_says() -> None:
    asked: list[Request] = []

    def answer(request: Request) -> Reply:
        asked.append(request)
        return Reply(body=DATA)

    async with server_of(answer) as port:
        source = WebGatewaySource(f"http://127.0.0.1:{port}/prefix/")
        assert await source.get(CID, bytes_max=MAX) == DATA
        await source.aclose()
    assert source.rank is Rank.WEB
    assert (asked[0].method, asked[0].path, asked[0].query) == ("GET", f"/prefix/ipfs/{CID}", {"format": ["raw"]})
    assert asked[0].headers["accept"] == "application/vnd.ipld.raw"
    assert asked[0].headers["host"] == f"127.0.0.1:{port}"


@pytest.mark.parametrize("status", [404, 410, 504])
async def test_a_block_that_the_gateway_does_not_find_is_lacking(status: int) -> None:
    async with server_of(lambda _request: Reply(status, b"no")) as port:
        source = WebGatewaySource(f"http://127.0.0.1:{port}")
        assert await source.get(CID, bytes_max=MAX) is None
        await source.aclose()


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        pytest.param(Reply(body=bytes(MAX + 1)), "more than 1000 bytes", id="too long"),
        pytest.param(Reply(429), "status 429", id="too many requests"),
        pytest.param(Reply(206, DATA), "status 206", id="a part"),
        pytest.param(Reply(body=DATA, headers={"Content-Encoding": "gzip"}), "compresses", id="a bomb"),
        pytest.param(Reply(stall=True, headers={"Content-Length": "10"}), ".", id="a stall"),
        pytest.param(Reply(body=bytes(900), seconds_per_byte=0.05), "within", id="a trickle"),
        pytest.param(Reply(body=DATA, headers={"Content-Length": "900"}), ".", id="a torn body"),
        pytest.param(Reply(302, headers={"Location": "http://[nonsense"}), "redirect", id="a redirect to nonsense"),
    ],
)
async def test_what_a_gateway_does_wrong_ends_its_use(reply: Reply, why: str) -> None:
    async with server_of(lambda _request: reply) as port:
        source = WebGatewaySource(f"http://127.0.0.1:{port}", silence_seconds=0.3, request_seconds=1)
        with pytest.raises(SourceFailedError, match=why):
            await source.get(CID, bytes_max=MAX)
        await source.aclose()


async def test_wrong_bytes_are_handed_on_for_the_session_to_find_out() -> None:
    async with server_of(lambda _request: Reply(body=b"lies")) as port:
        source = WebGatewaySource(f"http://127.0.0.1:{port}")
        data = await source.get(CID, bytes_max=MAX)
        assert data is not None
        assert not CID.matches(data)
        await source.aclose()


@pytest.mark.parametrize(
    "target",
    ["http://127.0.0.1:{port}/", "https://127.0.0.1:{port}/", "http://example.org/", "file:///etc/passwd", "//[::1]/"],
)
async def test_a_redirect_from_plain_http_is_not_followed(target: str) -> None:
    asked: list[str] = []

    async with server_of(lambda request: Reply(body=asked.append(request.path) or b"")) as inner:
        location = target.format(port=inner)
        async with server_of(lambda _request: Reply(302, headers={"Location": location})) as port:
            source = WebGatewaySource(f"http://127.0.0.1:{port}")
            with pytest.raises(SourceFailedError, match="only https to https"):
                await source.get(CID, bytes_max=MAX)
            await source.aclose()
    assert asked == []


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("https://127.0.0.1:{port}/", "private network"),
        ("https://[::1]:{port}/", "private network"),
        ("https://[::ffff:127.0.0.1]:{port}/", "private network"),
        ("https://169.254.169.254/latest/meta-data/", "private network"),
        ("https://10.0.0.1/", "private network"),
        ("https://0.0.0.0:{port}/", "private network"),
        ("https://inside.example:{port}/", "is at 127.0.0.1, which is not public"),
        ("https://user:secret@inside.example/", "password"),
        ("http://inside.example:{port}/", "only https to https"),
        ("https://inside.example:99999999/", "not an HTTP address"),
        ("https://" + "a" * 300 + ".example/", "."),
        ("https://\u2024\u2024/", "."),
    ],
)
async def test_a_redirect_into_a_private_network_is_not_followed(tmp_path: Path, target: str, why: str) -> None:
    server, client = certificates(tmp_path, "127.0.0.1", "inside.example")
    asked: list[str] = []
    async with server_of(lambda request: Reply(body=asked.append(request.path) or b""), server) as inner:
        location = target.format(port=inner)
        async with server_of(lambda _request: Reply(302, headers={"Location": location}), server) as port:
            source = WebGatewaySource(f"https://127.0.0.1:{port}", resolve=loopback, verify=client)
            with pytest.raises(SourceFailedError, match=why):
                await source.get(CID, bytes_max=MAX)
            await source.aclose()
    assert asked == []


async def test_a_redirect_to_a_public_subdomain_is_followed_to_the_address_that_was_checked(tmp_path: Path) -> None:
    server, client = certificates(tmp_path, "gateway.example", f"{CID}.ipfs.gateway.example")
    resolved: list[str] = []

    async def resolve(host: str, _port: int) -> Sequence[str]:
        resolved.append(host)
        return ["127.0.0.1"]

    def answer(request: Request) -> Reply:
        host = request.headers["host"]
        if host.startswith("gateway.example"):
            return Reply(301, headers={"Location": f"https://{CID}.ipfs.{host}/?format=raw"})
        return Reply(body=DATA)

    async with server_of(answer, server) as port:
        source = WebGatewaySource(
            f"https://gateway.example:{port}", resolve=resolve, permits=lambda _address: True, verify=client
        )
        assert await source.get(CID, bytes_max=MAX) == DATA
        assert await source.get(CID, bytes_max=MAX) == DATA
        await source.aclose()
    assert resolved == ["gateway.example", f"{CID}.ipfs.gateway.example"]


async def test_redirects_without_end_are_given_up(tmp_path: Path) -> None:
    server, client = certificates(tmp_path, "gateway.example")
    asked: list[str] = []

    def answer(request: Request) -> Reply:
        asked.append(request.path)
        return Reply(307, headers={"Location": "/again"})

    async with server_of(answer, server) as port:
        source = WebGatewaySource(
            f"https://gateway.example:{port}", resolve=loopback, permits=lambda _address: True, verify=client
        )
        with pytest.raises(SourceFailedError, match="redirects"):
            await source.get(CID, bytes_max=MAX)
        await source.aclose()
    assert len(asked) == REDIRECTS_MAX + 1


async def test_a_certificate_for_another_name_is_refused(tmp_path: Path) -> None:
    server, client = certificates(tmp_path, "other.example")
    async with server_of(lambda _request: Reply(body=DATA), server) as port:
        source = WebGatewaySource(
            f"https://gateway.example:{port}", resolve=loopback, permits=lambda _address: True, verify=client
        )
        with pytest.raises(SourceFailedError, match=r"(?i)certificate"):
            await source.get(CID, bytes_max=MAX)
        await source.aclose()


async def test_a_name_that_leads_to_loopback_is_refused_though_the_operator_wrote_it() -> None:
    asked: list[str] = []
    async with server_of(lambda request: Reply(body=asked.append(request.path) or b"")) as port:
        source = WebGatewaySource(f"http://gateway.example:{port}", resolve=loopback)
        with pytest.raises(SourceFailedError, match="not public"):
            await source.get(CID, bytes_max=MAX)
        await source.aclose()
    assert asked == []


async def test_a_gateway_that_is_not_there_fails_soon() -> None:
    async with server_of(lambda _request: Reply()) as port:
        pass
    source = WebGatewaySource(f"http://127.0.0.1:{port}")
    with trio.fail_after(30), pytest.raises(SourceFailedError):
        await source.get(CID, bytes_max=MAX)
    await source.aclose()


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700:4700::1111", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("192.0.2.1", False),
        ("::1", False),
        ("::", False),
        ("fe80::1", False),
        ("fc00::1", False),
        ("ff02::1", False),
        ("::ffff:10.0.0.1", False),
        ("2002:7f00:1::", False),
        ("64:ff9b::7f00:1", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) == public
