"""Where a model server answers: a Unix socket or a URL, as an operator writes it."""

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

VLLM_API = "vllm"


class EndpointError(ValueError):
    """Text that names no place of a server."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server answers HTTP."""

    url: str
    """Scheme, host and port."""
    socket: Path | None = None
    api_key: str = field(default="", repr=False)
    api: str = VLLM_API
    """What it speaks: `vllm`, or one of `node.engine.text_client.TextApi`."""

    def __str__(self) -> str:
        return self.url if self.socket is None else str(self.socket)


def local_endpoint(socket: Path) -> Endpoint:
    """Return the endpoint of a server on a Unix socket."""
    return Endpoint("http://engine", socket)


def parse_endpoint(text: str, api_key: str = "") -> Endpoint:
    """Read `http://host:port`, `https://host:port` or `unix:/path/of/socket`. Raises EndpointError."""
    if text.startswith("unix:"):
        path = Path(text.removeprefix("unix:"))
        if not path.is_absolute():
            raise EndpointError(f"{text}: the path of a socket must be absolute, as in unix:/run/vllm.sock")
        return Endpoint("http://engine", path, api_key)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise EndpointError(f"{text}: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise EndpointError(f"{text}: expected http://host:port, https://host:port or unix:/path/of/socket")
    if parts.username is not None or parts.password is not None:
        raise EndpointError("a server's URL must hold no password; put its key into a file and name it in api_key_file")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise EndpointError(f"{text}: name only scheme, host and port; /v1 is added")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return Endpoint(f"{parts.scheme}://{host}" + ("" if port is None else f":{port}"), None, api_key)
