"""HTTP(S) servers on loopback that answer as a test says, well or badly."""

import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asked."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """What it is told."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    stall: bool = False
    """Send the head and nothing more."""
    seconds_per_byte: float = 0.0


Answer = Callable[[Request], Reply]


class Reader:
    """Takes lines and runs of bytes off a stream."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def until(self, mark: bytes) -> bytes | None:
        """Return what stands before `mark`; None if the stream ends first."""
        while (position := self._buffer.find(mark)) < 0:
            data = await self._stream.receive_some()
            if not data:
                return None
            self._buffer += data
        found = bytes(self._buffer[:position])
        del self._buffer[: position + len(mark)]
        return found

    async def exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._buffer += await self._stream.receive_some()
        found = bytes(self._buffer[:count])
        del self._buffer[:count]
        return found


async def read_request(reader: Reader) -> Request | None:
    head = await reader.until(b"\r\n\r\n")
    if head is None:
        return None
    lines = head.decode().split("\r\n")
    method, target, _ = lines[0].split()
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    body = b""
    if headers.get("transfer-encoding") == "chunked":
        while (size := int(await reader.until(b"\r\n") or b"", 16)) > 0:
            body += await reader.exactly(size)
            await reader.exactly(2)
        await reader.exactly(2)
    else:
        body = await reader.exactly(int(headers.get("content-length", "0")))
    parts = urlsplit(target)
    return Request(method, parts.path, parse_qs(parts.query), headers, body)


def handler(answer: Answer) -> Callable[[trio.abc.Stream], Awaitable[None]]:
    async def handle(stream: trio.abc.Stream) -> None:
        reader = Reader(stream)
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError):
            while (request := await read_request(reader)) is not None:
                reply = answer(request)
                headers = {"Content-Length": str(len(reply.body)), **reply.headers}
                lines = [f"HTTP/1.1 {reply.status} X", *(f"{name}: {value}" for name, value in headers.items())]
                await stream.send_all(("\r\n".join(lines) + "\r\n\r\n").encode())
                if reply.stall:
                    await trio.sleep_forever()
                if reply.seconds_per_byte:
                    for number in range(len(reply.body)):
                        await stream.send_all(reply.body[number : number + 1])
                        await trio.sleep(reply.seconds_per_byte)
                else:
                    await stream.send_all(reply.body)
        with suppress(Exception):
            await stream.aclose()

    return handle


@asynccontextmanager
async def server_of(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve on loopback until the context is left; yields the port."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port: int = listeners[0].socket.getsockname()[1]
    serving = [trio.SSLListener(listener, tls) for listener in listeners] if tls else listeners
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handler(answer), serving)
        yield port
        nursery.cancel_scope.cancel()


def certificates(directory: Path, *names: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Make a certificate for `names` (hosts or addresses); return the server's context and one that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = datetime.datetime.now(datetime.UTC)
    alternatives: list[x509.GeneralName] = []
    for name in names:
        try:
            alternatives.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            alternatives.append(x509.DNSName(name))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = directory / "server.pem"
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    client = ssl.create_default_context(cadata=certificate.public_bytes(serialization.Encoding.PEM).decode())
    return server, client
