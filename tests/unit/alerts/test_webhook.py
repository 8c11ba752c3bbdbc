"""The webhook: notices arrive signed, are tried again, are never redirected, and their URL is no matter for the log."""

import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import structlog
import trio
import trio.testing
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from node.alerts import webhook as module
from node.alerts.desk import AlertDesk, NoticeState
from node.alerts.kinds import AlertKind, make_alert
from node.alerts.webhook import DeliveryError, Origin, Webhook, notice_body
from node.api.server import bind_api, serve_api

NOW = 1_700_000_000
SECRET = b"between the two of us"
ORIGIN = Origin("0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A", "12D3KooWself", "1-net")
TROUBLE = make_alert(AlertKind.LOW_GAS, "account", "little gas is left")


@dataclass
class Receiver:
    """A stand-in for the operator's program: answers with the given statuses in turn, then with 204."""

    statuses: list[int] = field(default_factory=list)
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    elsewhere: int = 0

    async def take(self, request: Request) -> Response:
        self.got.append((dict(request.headers), await request.body()))
        status = self.statuses.pop(0) if self.statuses else 204
        return Response(status_code=status, headers={"Location": "/elsewhere"} if 300 <= status < 400 else None)

    async def redirected(self, _request: Request) -> Response:
        self.elsewhere += 1
        return Response(status_code=204)


@asynccontextmanager
async def receiver(*statuses: int) -> AsyncIterator[tuple[Receiver, str]]:
    stand_in = Receiver(list(statuses))
    app = Starlette(
        routes=[
            Route("/hook/{key}", stand_in.take, methods=["POST"]),
            Route("/elsewhere", stand_in.redirected, methods=["GET", "POST"]),
        ]
    )
    listener = bind_api("127.0.0.1", 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_api, app, listener)
        yield stand_in, f"http://127.0.0.1:{listener.getsockname()[1]}/hook/T0PS3CRETT0PS3CRET"
        nursery.cancel_scope.cancel()
    listener.close()


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF_SECONDS_FIRST", 0.01)
    monkeypatch.setattr(module, "BACKOFF_SECONDS_MAX", 0.02)


def desk() -> AlertDesk:
    return AlertDesk(list(AlertKind), 3600, lambda: NOW)


def hook(url: str, secret: bytes = SECRET) -> Webhook:
    return Webhook(url, secret, ORIGIN, lambda: NOW)


async def test_a_notice_says_who_what_and_what_to_do_and_proves_where_it_comes_from() -> None:
    async with receiver() as (stand_in, url):
        told = desk()
        told.look([TROUBLE])
        await hook(url).deliver(await told.notices.receive())
    ((headers, body),) = stand_in.got
    value = json.loads(body)
    assert (value["kind"], value["state"], value["severity"]) == ("low-gas", "raised", "warning")
    assert value["node"] == {"account": ORIGIN.account, "peer_id": ORIGIN.peer_id, "network": "1-net"}
    assert "gas coins" in value["remedy"]
    assert value["text"] == value["content"]
    assert "little gas is left" in value["text"]
    signed = f"{headers['x-quern-timestamp']}.".encode() + body
    assert headers["x-quern-signature"] == "sha256=" + hmac.new(SECRET, signed, hashlib.sha256).hexdigest()


async def test_without_a_secret_nothing_is_signed() -> None:
    async with receiver() as (stand_in, url):
        await hook(url, b"").send(desk().make_test())
    assert "x-quern-signature" not in stand_in.got[0][0]


async def test_a_webhook_that_is_down_for_a_while_gets_the_notice_later() -> None:
    async with receiver(503, 429, 500) as (stand_in, url):
        target = hook(url)
        await target.deliver(desk().make_test())
    assert (len(stand_in.got), target.delivered, target.failed) == (4, 1, 0)


@pytest.mark.parametrize("status", [400, 401, 404, 410])
async def test_a_refusal_is_not_tried_again(status: int) -> None:
    async with receiver(status) as (stand_in, url):
        target = hook(url)
        await target.deliver(desk().make_test())
    assert (len(stand_in.got), target.delivered, target.failed) == (1, 0, 1)


async def test_a_redirect_is_not_followed() -> None:
    async with receiver(302) as (stand_in, url):
        with pytest.raises(DeliveryError, match="status 302") as caught:
            await hook(url).send(desk().make_test())
    assert caught.value.final
    assert stand_in.elsewhere == 0


async def test_nobody_at_home_is_given_up_in_the_end_and_the_url_stays_secret() -> None:
    listener = bind_api("127.0.0.1", 0)
    port = listener.getsockname()[1]
    listener.close()
    with structlog.testing.capture_logs() as lines:
        target = hook(f"http://127.0.0.1:{port}/hook/T0PS3CRETT0PS3CRET")
        await target.deliver(desk().make_test())
    assert target.failed == 1
    assert len(lines) == module.TRIES_MAX + 1
    assert "T0PS3CRET" not in repr(lines)


async def test_notices_are_delivered_in_their_order() -> None:
    async with receiver() as (stand_in, url), trio.open_nursery() as nursery:
        told = desk()
        target = hook(url)
        nursery.start_soon(target.run, told.notices)
        told.look([TROUBLE])
        told.look([])
        with trio.fail_after(10):
            while target.delivered < 2:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    states = [json.loads(body)["state"] for _, body in stand_in.got]
    assert states == ["raised", "resolved"]


def test_a_test_says_that_it_is_one() -> None:
    body = notice_body(desk().make_test(), ORIGIN)
    assert (body["state"], body["kind"], body["remedy"]) == (NoticeState.TEST.value, "test", "")
