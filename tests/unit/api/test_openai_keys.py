"""API keys: who may ask, how often, and that no budget is ever overspent, over restarts and side by side."""

import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from node.api.keys import (
    KEYS_MAX,
    ApiKey,
    KeyBook,
    KeyLimits,
    add_api_key,
    find_api_key,
    read_api_keys,
    revoke_api_key,
)
from node.api.openai.application import user_of
from node.api.openai.faults import ApiError
from node.api.openai.gatekeeper import Caller, Gatekeeper
from node.api.openai.usage import Usage
from node.api.rates import Bucket
from node.private_files import PrivateFileError
from node.protocol.identifiers import ModelId
from node.services.checks import reading_tokens_max
from node.services.frames import Prompt, Turn
from node.services.gateway import ChatRequest, GatewayError
from node.store.database import Database
from node.store.key_spending import DAYS_KEPT_MAX, SECONDS_PER_DAY, KeySpending, Spending, day_of
from tests.builders import model
from tests.unit.api.canned_gateway import NOW, PROMPT_TOKENS, TOKEN_PRICE, Wall, make_gatekeeper, served
from tests.unit.api.test_openai import ask

PROMPT = Prompt((Turn("user", "hi"),))
BODY: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10}
MOST = (reading_tokens_max(PROMPT) + 10) * TOKEN_PRICE
"""What BODY may cost at most; it costs 70."""
COST = (PROMPT_TOKENS + 3) * TOKEN_PRICE


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "api.keys"


def made(file: Path, name: str = "alice", **limits: Any) -> str:
    return add_api_key(file, name, KeyLimits(**limits), at=NOW)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def post(url: str, key: str, **fields: Any) -> httpx.Response:
    async with httpx.AsyncClient(timeout=20) as client:
        return await client.post(f"{url}/chat/completions", json={**BODY, **fields}, headers=bearer(key))


# --- The file ---------------------------------------------------------------------------------------------------------


def test_keys_are_stored_as_digests_in_a_private_file(file: Path) -> None:
    key = made(file, day_amount_max=5)
    assert key not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    (stored,) = read_api_keys(file) or ()
    assert find_api_key((stored,), key) == stored
    assert find_api_key((stored,), key + "x") is None
    assert find_api_key((stored,), "") is None
    assert find_api_key((stored,), "x" * 10_000) is None


def test_names_are_given_once_and_keys_are_not_without_number(file: Path) -> None:
    made(file)
    with pytest.raises(ValueError, match="already"):
        made(file)
    with pytest.raises(ValueError, match="letters"):
        made(file, "no spaces")
    for number in range(KEYS_MAX - 1):
        made(file, f"k{number}", day_amount_max=10**37, total_amount_max=10**37, models=("m" * 64,) * 3)
    with pytest.raises(ValueError, match="revoke some"):
        made(file, "one-more")
    assert len(read_api_keys(file) or ()) == KEYS_MAX  # the full file can be read


def test_a_file_that_others_read_or_that_is_damaged_opens_nothing(file: Path) -> None:
    key = made(file)
    file.chmod(0o644)
    with pytest.raises(PrivateFileError, match="chmod 600"):
        read_api_keys(file)
    assert not make_gatekeeper(file, KeySpending(Database(":memory:")), Wall()).opens(key)
    file.chmod(0o600)
    file.write_text('{"keys": [{"name": "alice"}]}')
    with pytest.raises(PrivateFileError, match="quern keys add"):
        read_api_keys(file)


def test_a_revoked_key_is_out_at_once_and_an_empty_file_is_not_an_open_door(file: Path) -> None:
    book = KeyBook(file)
    assert book.keys() is None
    key = made(file)
    assert book.find(key) is not None
    assert revoke_api_key(file, "alice")
    assert not revoke_api_key(file, "alice")
    assert book.find(key) is None
    assert book.keys() == ()


# --- Over HTTP --------------------------------------------------------------------------------------------------------


async def test_without_a_key_nothing_is_told(file: Path) -> None:
    key = made(file)
    async with served(file) as face, httpx.AsyncClient() as client:
        for headers in ({}, bearer("qk_wrong"), {"authorization": f"Basic {key}"}, {"authorization": "Bearer"}):
            for reply in (
                await client.get(f"{face.url}/models", headers=headers),
                await client.post(f"{face.url}/chat/completions", json=BODY, headers=headers),
                await client.post(f"{face.url}/embeddings", content=b"{", headers=headers),
            ):
                assert reply.status_code == 401
                assert reply.json()["error"]["code"] == "invalid_api_key"
        assert face.gateway.asked == []
        assert (await post(face.url, key)).status_code == 200


async def test_the_sdk_knows_a_wrong_key(file: Path) -> None:
    made(file)
    async with served(file) as face:

        def use() -> None:
            ask(openai.OpenAI(base_url=face.url, api_key="wrong", max_retries=0))

        with pytest.raises(openai.AuthenticationError, match="quern keys add"):
            await trio.to_thread.run_sync(use)


async def test_where_others_can_reach_it_there_is_no_asking_without_keys(file: Path) -> None:
    async with served(file, is_open=False) as face:
        assert (await post(face.url, "any")).status_code == 401


async def test_an_expired_key_opens_nothing(file: Path) -> None:
    key = made(file, expires_at=NOW + 10)
    async with served(file) as face:
        assert (await post(face.url, key)).status_code == 200
        face.wall.now += 10
        reply = await post(face.url, key)
        assert reply.status_code == 401
        assert "expired" in reply.json()["error"]["message"]


async def test_a_key_opens_only_its_models(file: Path) -> None:
    key = made(file, models=("other",))
    async with served(file) as face, httpx.AsyncClient() as client:
        reply = await post(face.url, key)
        assert reply.status_code == 403
        assert reply.json()["error"]["param"] == "model"
        listed = await client.get(f"{face.url}/models", headers=bearer(key))
        assert listed.json()["data"] == []


async def test_too_many_requests_are_told_when_to_come_again(file: Path) -> None:
    key = made(file, requests_per_minute=2)
    async with served(file) as face:
        first = await post(face.url, key)
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert first.headers["x-ratelimit-remaining-requests"] == "1"
        await post(face.url, key)
        reply = await post(face.url, key)
        assert (reply.status_code, reply.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert 25 <= int(reply.headers["retry-after"]) <= 30
        assert len(face.gateway.asked) == 2


async def test_tokens_per_minute_count_what_was_really_used(file: Path) -> None:
    key = made(file, tokens_per_minute=40)
    async with served(file) as face:
        replies = [await post(face.url, key) for _ in range(6)]
        assert [reply.status_code for reply in replies][:4] == [200] * 4  # each uses 7
        assert replies[-1].status_code == 429
        assert replies[-1].json()["error"]["type"] == "tokens"


async def test_a_spent_budget_is_told_so_that_no_sdk_tries_again(file: Path) -> None:
    key = made(file, total_amount_max=MOST + COST)
    async with served(file) as face:
        assert (await post(face.url, key)).status_code == 200
        assert (await post(face.url, key)).status_code == 200
        reply = await post(face.url, key)
        assert (reply.status_code, reply.json()["error"]["code"]) == (429, "insufficient_quota")
        assert reply.headers["x-should-retry"] == "false"
        assert face.spending.total(read_api_keys(file)[0].key_id).amount == 2 * COST  # type: ignore[index]

        def use() -> None:
            ask(openai.OpenAI(base_url=face.url, api_key=key, max_retries=5), max_tokens=10)

        with pytest.raises(openai.RateLimitError):
            await trio.to_thread.run_sync(use)
        assert len(face.gateway.asked) == 2


async def test_the_day_s_budget_begins_anew_at_midnight(file: Path) -> None:
    key = made(file, day_amount_max=MOST)
    async with served(file) as face:
        assert (await post(face.url, key)).status_code == 200
        assert (await post(face.url, key)).status_code == 429
        face.wall.now += SECONDS_PER_DAY
        assert (await post(face.url, key)).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_what_was_spent_is_kept_over_a_restart(file: Path, tmp_path: Path, stream: bool) -> None:
    key = made(file, total_amount_max=MOST + 1)
    store = tmp_path / "quern.sqlite"
    async with served(file, database=Database(store)) as face:
        assert (await post(face.url, key, stream=stream)).status_code == 200
    async with served(file, database=Database(store)) as face:
        assert (await post(face.url, key)).status_code == 429


async def test_what_ran_when_the_daemon_died_counts_as_spent(file: Path, tmp_path: Path) -> None:
    made(file, total_amount_max=MOST)
    (key,) = read_api_keys(file) or ()
    first = KeySpending(Database(tmp_path / "quern.sqlite"))
    first.reserve(key.key_id, day_of(NOW), MOST)  # and then nothing: kill -9
    second = KeySpending(Database(tmp_path / "quern.sqlite"))
    assert (second.total(key.key_id).amount, second.reserved(key.key_id)) == (MOST, 0)


async def test_requests_side_by_side_do_not_spend_the_same_money(file: Path) -> None:
    key = made(file, total_amount_max=2 * MOST + 5)
    statuses: list[int] = []
    async with served(file) as face:
        face.gateway.silence_seconds = 0.5

        async def one() -> None:
            statuses.append((await post(face.url, key)).status_code)

        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(one)
        assert sorted(statuses) == [200] * 2 + [429] * 4


async def test_a_client_that_leaves_pays_for_what_it_had_and_no_more(file: Path) -> None:
    key = made(file, total_amount_max=10 * MOST)
    async with served(file) as face:
        face.gateway.endless = True
        with trio.fail_after(60):  # a busy machine takes seconds for a client
            async with trio.open_nursery() as nursery:
                nursery.start_soon(post, face.url, key)
                while not face.gateway.given:
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()
        with trio.fail_after(10):
            await face.gateway.left.wait()
            key_id = read_api_keys(file)[0].key_id  # type: ignore[index]
            while face.spending.reserved(key_id):
                await trio.sleep(0.01)
        assert face.spending.total(key_id).requests == 1


async def test_failures_are_counted_and_cost_nothing(file: Path) -> None:
    key = made(file, total_amount_max=MOST)
    async with served(file) as face:
        face.gateway.fail_at_once = GatewayError("no-executor", "nobody")
        for _ in range(3):
            assert (await post(face.url, key)).status_code == 503
        key_id = read_api_keys(file)[0].key_id  # type: ignore[index]
        assert (face.spending.total(key_id).amount, face.spending.reserved(key_id)) == (0, 0)


async def test_an_answer_without_a_limit_is_as_long_as_the_budget_allows(file: Path) -> None:
    key = made(file, total_amount_max=MOST)
    async with served(file) as face, httpx.AsyncClient() as client:
        body = {name: value for name, value in BODY.items() if name != "max_tokens"}
        reply = await client.post(f"{face.url}/chat/completions", json=body, headers=bearer(key))
        assert reply.status_code == 200
        assert face.gateway.asked[0].max_tokens == 10


async def test_embeddings_are_paid_from_the_budget_too(file: Path) -> None:
    key = made(file, total_amount_max=200)
    async with served(file) as face, httpx.AsyncClient() as client:
        body = {"model": "tiny", "input": "0123456789"}
        statuses = [
            (await client.post(f"{face.url}/embeddings", json=body, headers=bearer(key))).status_code for _ in range(2)
        ]
        assert statuses == [200, 429]
        assert face.spending.total(read_api_keys(file)[0].key_id).amount == 30  # type: ignore[index]


# --- Rules ------------------------------------------------------------------------------------------------------------


def gate(file: Path, spending: KeySpending) -> Gatekeeper:
    return Gatekeeper(
        KeyBook(file), spending, lambda _: TOKEN_PRICE, is_open=False, wall_clock=Wall(), clock=lambda: 0.0
    )


@given(
    st.integers(0, 5_000),
    st.lists(st.tuples(st.sampled_from([None, 1, 10, 100]), st.integers(1, 3), st.integers(0, 100), st.booleans())),
)
def test_no_order_of_requests_overspends(budget: int, wanted: list[tuple[int | None, int, int, bool]]) -> None:
    """Some run on while others begin; each costs any share of what it may."""
    spending = KeySpending(Database(":memory:"))
    stored = ApiKey(name="alice", digest="0" * 64, created_at=NOW, total_amount_max=str(budget))
    keeper, caller = gate(Path("unread"), spending), Caller(stored)
    running = []
    for max_tokens, count, share, ends in wanted:
        chats = [ChatRequest(ModelId("tiny"), PROMPT, max_tokens)] * count
        try:
            grant = keeper.reserve(caller, model(), chats)
        except ApiError as fault:
            assert fault.code == "insufficient_quota"
            continue
        most = sum(
            min(reading_tokens_max(PROMPT) + (chat.max_tokens or 10**9), model().context_length) * TOKEN_PRICE
            for chat in grant.chats
        )
        running.append((grant, Usage(1, 1, most * share // 100)))
        if ends:
            done, usage = running.pop(0)
            done.settle(usage)
            done.settle(usage)  # a second time has no effect
    for grant, usage in running:
        grant.settle(usage)
    assert spending.total(stored.key_id).amount <= budget
    assert spending.reserved(stored.key_id) == 0


@given(st.integers(1, 1_000), st.lists(st.tuples(st.floats(0, 100), st.integers(1, 2_000))))
def test_a_bucket_never_gives_more_than_its_rate_and_one_debt(per_minute: int, steps: list[tuple[float, int]]) -> None:
    bucket, now, taken, largest = Bucket.full(per_minute, 0.0), 0.0, 0.0, 0
    for pause, amount in steps:
        now += pause
        if bucket.wait_seconds(amount, now) == 0:
            bucket.take(amount, now)
            taken, largest = taken + amount, max(largest, amount)
            assert bucket.wait_seconds(amount, now) >= 0
    assert taken <= per_minute + per_minute * now / 60 + largest + 1e-6


def test_waiting_as_long_as_told_is_enough() -> None:
    bucket = Bucket.full(60, 0.0)
    bucket.take(60, 0.0)
    wait = bucket.wait_seconds(5, 0.0)
    assert wait == pytest.approx(5.0)
    assert bucket.wait_seconds(5, wait) == 0


def test_days_long_ago_are_folded_and_nothing_is_lost(tmp_path: Path) -> None:
    spending = KeySpending(Database(tmp_path / "quern.sqlite"))
    for day in range(1, 3 * DAYS_KEPT_MAX):
        spending.settle(None, "k", day, Spending(1, 2, 3, 10**30))
    assert len(spending.by_day("k")) <= DAYS_KEPT_MAX + 2
    days = 3 * DAYS_KEPT_MAX - 1
    assert spending.total("k") == Spending(days, 2 * days, 3 * days, days * 10**30)


def test_a_key_file_is_json_that_an_operator_can_read(file: Path) -> None:
    made(file, day_amount_max=7, models=("tiny",))
    (entry,) = json.loads(file.read_text())["keys"]
    assert (entry["name"], entry["day_amount_max"], entry["models"]) == ("alice", "7", ["tiny"])


async def test_a_request_tells_the_gateway_which_key_asks(file: Path) -> None:
    keys = [made(file, name) for name in ("alice", "bob")]
    async with served(file) as face:
        for key in (*keys, keys[0]):
            await post(face.url, key, n=2)
        users = [chat.user for chat in face.gateway.asked]
    assert users == [users[0]] * 2 + [users[2]] * 2 + [users[0]] * 2
    assert users[0] != users[2]
    assert not any(key in user for key in keys for user in users)


@pytest.mark.parametrize(
    ("one", "other", "are_one"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("no address", "", False),
    ],
)
def test_without_keys_a_place_is_a_user(one: str, other: str, are_one: bool) -> None:
    def user(host: str) -> str:
        return user_of(Caller(), Request({"type": "http", "client": (host, 1) if host else None}))

    assert (user(one) == user(other)) is are_one
