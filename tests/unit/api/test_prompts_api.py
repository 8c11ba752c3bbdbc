"""Prompts over HTTP: handed in, found again, counted to the key that paid; the real desk over a simulated network."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from netsim.scenario import MODEL_ID
from node.api.keys import KeyLimits, add_api_key, read_api_keys
from node.api.openai import make_app
from node.api.prompts import PromptApi
from node.store.database import Database
from node.store.key_spending import KeySpending
from tests.unit.api.canned_gateway import NOW, TOKEN_PRICE, Wall, make_gatekeeper
from tests.unit.services.serving_network import GATEWAY, ServingNetwork, serving_network

BODY: dict[str, Any] = {
    "mode": "open",
    "model": MODEL_ID,
    "messages": [{"role": "user", "content": "grind me something"}],
    "max_tokens": 12,
}


@dataclass
class Face:
    network: ServingNetwork
    client: httpx.AsyncClient
    spending: KeySpending


@asynccontextmanager
async def face(keys_file: Path | None = None) -> AsyncIterator[Face]:
    async with serving_network(2) as network:
        spending = KeySpending(Database(":memory:"))
        wall = Wall()
        gatekeeper = make_gatekeeper(keys_file, spending, wall)
        routes = PromptApi(network.desk, network.gateway, gatekeeper).routes()
        app = make_app(network.gateway, wall, gatekeeper, more_routes=routes)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway", timeout=None) as client:
            yield Face(network, client, spending)


async def until_ended(client: httpx.AsyncClient, ask_id: str, **headers: str) -> dict[str, Any]:
    with trio.fail_after(900):
        while True:
            reply = await client.get(f"/v1/prompts/{ask_id}?wait=60", headers=headers)
            assert reply.status_code == 200, reply.text
            body: dict[str, Any] = reply.json()
            if body["status"] in ("answered", "failed", "reclaimed"):
                return body


@pytest.mark.parametrize("mode", ["open", "chain"])
async def test_a_prompt_is_handed_in_and_its_answer_found_later(mode: str, autojump_clock: object) -> None:
    async with face() as api:
        reply = await api.client.post("/v1/prompts", json={**BODY, "mode": mode})
        assert reply.status_code == 202
        handed_in = reply.json()
        assert (handed_in["object"], handed_in["status"], handed_in["mode"]) == ("quern.prompt", "posting", mode)
        ended = await until_ended(api.client, handed_in["id"])
        assert ended["status"] == "answered"
        assert ended["result"]["text"]
        assert ended["result"]["finish_reason"] == "length"
        assert ended["usage"]["completion_tokens"] == 12
        assert int(ended["price"]) > 0
        assert (ended["prompt_id"] is None) == (mode == "open")
        assert ended["error"] is None


async def test_a_private_one_is_private(autojump_clock: object) -> None:
    async with face() as api:
        reply = await api.client.post("/v1/prompts", json={**BODY, "quern": {"private": True}})
        ended = await until_ended(api.client, reply.json()["id"])
        assert ended["private"] is True
        assert ended["result"]["text"]
        (receipt,) = api.network.members[GATEWAY].store.receipts(limit=2)
        assert receipt.receipt.is_private


@pytest.mark.parametrize(
    ("changes", "status", "param"),
    [
        ({"mode": "telepathy"}, 400, "mode"),
        ({"mode": None}, 400, "mode"),
        ({"model": "unknown"}, 404, "model"),
        ({"stream": True}, 400, "stream"),
        ({"n": 2}, 400, "n"),
        ({"logprobs": True}, 400, "logprobs"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 400, "tools"),
        ({"messages": []}, 400, "messages"),
        ({"temperature": 9}, 400, "temperature"),
        ({"mode": "chain", "quern": {"private": True}}, 400, None),
        ({"messages": [{"role": "user", "content": "x" * 400_000}]}, 400, None),
    ],
)
async def test_what_cannot_be_asked_is_refused_by_name_and_costs_nothing(
    changes: dict[str, Any], status: int, param: str | None, autojump_clock: object
) -> None:
    async with face() as api:
        reply = await api.client.post("/v1/prompts", json={**BODY, **changes})
        assert reply.status_code == status, reply.text
        assert reply.json()["error"]["param"] == param
        assert not api.network.desk.asks()


async def test_a_key_sees_its_own_prompts_and_is_charged_what_they_cost(tmp_path: Path, autojump_clock: object) -> None:
    file = tmp_path / "keys"
    limits = KeyLimits(total_amount_max=str(10_000 * TOKEN_PRICE))
    alice, bob = ({"authorization": f"Bearer {add_api_key(file, name, limits, at=NOW)}"} for name in ("alice", "bob"))
    async with face(file) as api:
        assert (await api.client.post("/v1/prompts", json=BODY)).status_code == 401
        reply = await api.client.post("/v1/prompts", json=BODY, headers=alice)
        ask_id = reply.json()["id"]
        (key, *_) = read_api_keys(file) or ()
        assert api.spending.reserved(key.key_id) > 0
        ended = await until_ended(api.client, ask_id, **alice)
        assert api.spending.reserved(key.key_id) == 0
        assert api.spending.total(key.key_id).amount == int(ended["price"])
        assert (await api.client.get(f"/v1/prompts/{ask_id}", headers=bob)).status_code == 404
        assert (await api.client.get(f"/v1/prompts/{ask_id}")).status_code == 401


async def test_a_prompt_beyond_the_budget_is_refused(tmp_path: Path, autojump_clock: object) -> None:
    file = tmp_path / "keys"
    poor = {"authorization": f"Bearer {add_api_key(file, 'poor', KeyLimits(total_amount_max='5'), at=NOW)}"}
    async with face(file) as api:
        reply = await api.client.post("/v1/prompts", json=BODY, headers=poor)
        assert reply.status_code == 429
        assert reply.json()["error"]["code"] == "insufficient_quota"


async def test_a_prompt_that_came_to_nothing_says_why_and_costs_its_key_nothing(
    tmp_path: Path, autojump_clock: object
) -> None:
    file = tmp_path / "keys"
    limits = KeyLimits(total_amount_max=str(10_000 * TOKEN_PRICE))
    alice = {"authorization": f"Bearer {add_api_key(file, 'alice', limits, at=NOW)}"}
    async with face(file) as api:
        for number, member in api.network.members.items():
            if number != GATEWAY:
                api.network.switchboard.leave(member.network.peer_id)
        await trio.sleep(120)  # virtual: they are missed
        reply = await api.client.post("/v1/prompts", json=BODY, headers=alice)
        ended = await until_ended(api.client, reply.json()["id"], **alice)
        assert ended["status"] == "failed"
        assert "present" in ended["error"]["message"]
        (key, *_) = read_api_keys(file) or ()
        assert api.spending.reserved(key.key_id) == api.spending.total(key.key_id).amount == 0


async def test_unknown_prompts_and_odd_waits_are_refused(autojump_clock: object) -> None:
    async with face() as api:
        assert (await api.client.get("/v1/prompts/" + "0" * 32)).status_code == 404
        for wait in ("-1", "61", "x", "1e3", "٣"):
            assert (await api.client.get("/v1/prompts/x", params={"wait": wait})).status_code == 400
