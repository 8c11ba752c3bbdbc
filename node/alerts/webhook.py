"""Delivers notices to the operator's webhook: signed if there is a secret, tried again for a while, never redirected.

The body is JSON. `text` and `content` say all of it in words, which is what Slack's and Discord's webhooks show.
With a secret, `X-Quern-Signature` is `sha256=` and the hex HMAC-SHA256 of `X-Quern-Timestamp`, a dot, and the body:
whoever receives it can tell that it is ours, and new.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit

import httpx
import structlog
import trio

from node.alerts.desk import Notice, NoticeState
from node.ports import WallClock

log = structlog.get_logger(__name__)

TRIES_MAX = 8
"""Over some four minutes; a webhook that is down longer gets the next repetition."""
BACKOFF_SECONDS_FIRST = 2.0
BACKOFF_SECONDS_MAX = 60.0
ANSWER_SECONDS_MAX = 10.0
RETRIED_STATUSES = frozenset({408, 425, 429})
"""Client errors that may be over a little later; any other means that the request itself is wrong."""
VERSION = 1


class DeliveryError(Exception):
    """A notice did not arrive. `final`: another try would not help."""

    def __init__(self, message: str, *, final: bool) -> None:
        super().__init__(message)
        self.final = final


@dataclass(frozen=True, slots=True)
class Origin:
    """Which daemon it is that tells."""

    account: str
    peer_id: str
    network_id: str


class Webhook:
    """Sends notices to one URL. `delivered` and `failed` count since the start."""

    def __init__(self, url: str, secret: bytes, origin: Origin, wall_clock: WallClock) -> None:
        self._url = url
        self._secret = secret
        self._origin = origin
        self._wall_clock = wall_clock
        self.delivered = 0
        self.failed = 0

    @property
    def host(self) -> str:
        """The server, for the log: the rest of the URL is often a secret."""
        return urlsplit(self._url).hostname or "?"

    async def run(self, notices: trio.MemoryReceiveChannel[Notice]) -> None:
        """Deliver notices in their order, for ever."""
        async for notice in notices:
            await self.deliver(notice)

    async def deliver(self, notice: Notice) -> None:
        """Deliver a notice, with several tries; give it up in the end, and say so in the log."""
        pause = BACKOFF_SECONDS_FIRST
        for left in reversed(range(TRIES_MAX)):
            try:
                await self.send(notice)
            except DeliveryError as error:
                log.warning("a notice did not arrive", webhook=self.host, reason=str(error), tries_left=left)
                if error.final or not left:
                    break
                await trio.sleep(pause)
                pause = min(2 * pause, BACKOFF_SECONDS_MAX)
            else:
                return
        self.failed += 1
        log.error("a notice was given up", webhook=self.host, kind=notice.alert.kind.value)

    async def send(self, notice: Notice) -> None:
        """Try once. Raises DeliveryError."""
        body = json.dumps(notice_body(notice, self._origin), ensure_ascii=False).encode()
        headers = {"Content-Type": "application/json", **signature_headers(self._secret, body, self._wall_clock())}
        try:
            with trio.fail_after(ANSWER_SECONDS_MAX):
                status = await self._post(body, headers)
        except trio.TooSlowError as error:
            raise DeliveryError(f"no answer within {ANSWER_SECONDS_MAX:.0f} s", final=False) from error
        except httpx.HTTPError as error:
            raise DeliveryError(f"{type(error).__name__} at {self.host}", final=False) from error
        except (httpx.InvalidURL, ValueError) as error:
            raise DeliveryError("the URL of the webhook cannot be used", final=True) from error
        if not 200 <= status < 300:
            final = 300 <= status < 500 and status not in RETRIED_STATUSES
            raise DeliveryError(f"{self.host} answered with status {status}", final=final)
        self.delivered += 1

    async def _post(self, body: bytes, headers: Mapping[str, str]) -> int:
        """Post and return the status. The operator's own URL may be on his own network; redirects are not followed."""
        async with (
            httpx.AsyncClient(timeout=ANSWER_SECONDS_MAX, follow_redirects=False, trust_env=False) as client,
            client.stream("POST", self._url, content=body, headers=headers) as response,
        ):
            return response.status_code  # nobody needs its body


def notice_body(notice: Notice, origin: Origin) -> dict[str, object]:
    """Return what is sent."""
    alert = notice.alert
    words = {
        NoticeState.RAISED: alert.message,
        NoticeState.REPEATED: f"still: {alert.message}",
        NoticeState.RESOLVED: f"over: {alert.message}",
        NoticeState.TEST: alert.message,
    }[notice.state]
    remedy = "" if notice.state in (NoticeState.RESOLVED, NoticeState.TEST) else alert.remedy
    text = f"Quern {origin.account[:10]}: {words}" + (f" → {remedy}" if remedy else "")
    return {
        "version": VERSION,
        "id": f"{origin.peer_id}/{notice.at}/{notice.number}",
        "at": datetime.fromtimestamp(notice.at, UTC).isoformat(),
        "state": notice.state.value,
        "kind": "test" if notice.state is NoticeState.TEST else alert.kind.value,
        "severity": alert.severity.value,
        "subject": alert.subject,
        "message": alert.message,
        "remedy": remedy,
        "node": {"account": origin.account, "peer_id": origin.peer_id, "network": origin.network_id},
        "text": text,
        "content": text,
    }


def signature_headers(secret: bytes, body: bytes, at: int) -> Mapping[str, str]:
    """Return the headers that prove where a body comes from; none without a secret."""
    if not secret:
        return {}
    digest = hmac.new(secret, f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return {"X-Quern-Timestamp": str(at), "X-Quern-Signature": f"sha256={digest}"}
