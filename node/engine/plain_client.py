"""An HTTP client for engines, without what no engine has: cookies, credentials, redirects, hooks, a log line per call.

httpx builds and sends a request through a dozen layers, which takes three times as long as all else that is done for a
small one; and every answer needs two of them before its first token. Requests and replies are httpx's own, and what is
not a plain POST of JSON goes its way.
"""

import json
from functools import lru_cache
from typing import Any

import httpx

PATHS_KEPT_MAX = 64
"""An engine is asked at a dozen."""


class PlainClient(httpx.AsyncClient):
    """As httpx's, over a transport that does the checking. Never follows a redirect."""

    def __init__(self, transport: httpx.AsyncBaseTransport, *, base_url: str, timeout: httpx.Timeout) -> None:
        super().__init__(
            transport=transport, base_url=base_url, timeout=timeout, follow_redirects=False, trust_env=False
        )
        self._through = transport
        self._extensions = {"timeout": timeout.as_dict()}
        self._url_of = lru_cache(maxsize=PATHS_KEPT_MAX)(self._whole_url)

    # Any: httpx's own types of these are private.
    def build_request(self, method: str, url: httpx.URL | str, **given: Any) -> httpx.Request:
        """Return a request; the short way if there is nothing to it but JSON."""
        value = given.get("json")
        is_path = isinstance(url, str) and url.startswith("/")
        if method != "POST" or value is None or not is_path or not _is_only_json(given):
            return super().build_request(method, url, **given)
        content = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
        headers = {"accept": "*/*", "content-type": "application/json"}
        return httpx.Request(method, self._url_of(url), headers=headers, content=content, extensions=self._extensions)

    async def send(self, request: httpx.Request, *, stream: bool = False, **_given: Any) -> httpx.Response:
        """Send a request; return the reply, read whole unless it is to be streamed. Raises httpx.HTTPError."""
        if self.is_closed:
            raise RuntimeError("the client was closed")
        response = await self._through.handle_async_request(request)
        response.request = request
        if stream:
            return response
        try:
            await response.aread()
        except BaseException:
            await response.aclose()
            raise
        return response

    def _whole_url(self, path: str) -> httpx.URL:
        return httpx.URL(str(self.base_url).rstrip("/") + path)


def _is_only_json(given: dict[str, Any]) -> bool:
    """Whether a request has nothing but a body."""
    return all(value is None or value is httpx.USE_CLIENT_DEFAULT for name, value in given.items() if name != "json")
