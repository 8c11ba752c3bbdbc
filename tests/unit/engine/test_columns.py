"""Log-probabilities as columns: offered to who asks and to nobody else, and read as if each had been told by itself."""

import base64
import json
import math
import struct
import sys
from collections.abc import Sequence
from importlib.metadata import PathDistribution
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.engine.client import EngineClient
from node.engine.columns import columns_from, read_own_logprobs, read_prefills
from node.engine.plugin import COMMON_DIRECTORY
from node.ports import EngineFailedError

Row = tuple[list[int], list[float]]


class Telling:
    """What processors of vLLM have alike."""

    def __init__(self, tokenizer: Any, request: Any) -> None:
        self.tokenizer = tokenizer
        self.request = request
        self.told: list[Any] = []

    def _update_prompt_logprobs(self, tensors: Any) -> None:
        self.told.append(tensors)


class Processor(Telling):
    """As vLLM 0.32 makes them."""

    @classmethod
    def from_new_request(cls, tokenizer: Any, request: Any) -> Any:
        return cls(tokenizer, request)


class OtherProcessor(Telling):
    """As another vLLM might."""

    @classmethod
    def from_new_request(cls, request: Any) -> Any:
        return request


class NoProcessor:
    """As a third might: what it does with log-probabilities is not known."""

    @classmethod
    def from_new_request(cls, tokenizer: Any, request: Any) -> Any:
        return tokenizer, request


def install(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    monkeypatch.setitem(sys.modules, "vllm.v1.engine.logprobs", module)
    monkeypatch.setitem(sys.modules, "vllm.logprobs", SimpleNamespace(Logprob=SimpleNamespace))
    monkeypatch.syspath_prepend(str(COMMON_DIRECTORY))
    distribution = PathDistribution(COMMON_DIRECTORY / "quern_columns-1.dist-info")
    (entry,) = distribution.entry_points.select(group="vllm.general_plugins")
    entry.load()()


def request(extra: dict[str, object] | None) -> Any:
    return SimpleNamespace(sampling_params=SimpleNamespace(extra_args=extra))


@pytest.mark.parametrize("times", [1, 2])  # it is called in each process, perhaps more than once
def test_who_asks_for_columns_gets_them_and_nobody_else(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    known: Any = type("Known", (Processor,), {"from_new_request": Processor.__dict__["from_new_request"]})
    for _ in range(times):
        install(monkeypatch, SimpleNamespace(LogprobsProcessor=known))
    asking = request({**columns_from(3), "quern_winners": "…"})
    made = known.from_new_request(tokenizer="texts", request=asking)
    assert (type(made), made.tokenizer, made.request) == (known, None, asking)
    assert made._update_prompt_logprobs.__class__.__name__ == "Telling"
    fields: list[Any] = [None, {}, *({"quern_columns": value} for value in (0, -1, None, True, 1.0, "1", [1]))]
    for other in map(request, fields):
        made = known.from_new_request(tokenizer="texts", request=other)
        assert (made.tokenizer, made.request) == ("texts", other)
        made._update_prompt_logprobs("tensors")
        assert made.told == ["tensors"]
        assert known.from_new_request("texts", other).tokenizer == "texts"


@pytest.mark.parametrize("broken", ["other words", "another function", "no function", "no class", "no module"])
def test_another_vllm_is_left_as_it_is_and_its_log_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    before = [kind.__dict__["from_new_request"] for kind in (OtherProcessor, NoProcessor)]
    modules = {
        "other words": SimpleNamespace(LogprobsProcessor=OtherProcessor),
        "another function": SimpleNamespace(LogprobsProcessor=NoProcessor),
        "no function": SimpleNamespace(LogprobsProcessor=object),
        "no class": ModuleType("vllm.v1.engine.logprobs"),
        "no module": None,
    }
    install(monkeypatch, modules[broken])
    assert "quern_columns is not offered" in caplog.text
    assert [kind.__dict__["from_new_request"] for kind in (OtherProcessor, NoProcessor)] == before


def as_columns(*parts: Sequence[Row], width: int | None = None) -> list[Any]:
    """As the plug-in tells rows, in one part or several."""
    entries: list[Any] = [None]
    for rows in parts:
        ids, logprobs = ([number for row in rows for number in row[column]] for column in (0, 1))
        told = struct.pack(f"<{len(ids)}i{len(logprobs)}f", *ids, *logprobs)
        columns = len(rows[0][0]) if width is None else width
        entries.append({"-1": {"logprob": 0.0, "rank": columns, "decoded_token": base64.b64encode(told).decode()}})
    return entries


def as_entries(rows: Sequence[Row]) -> list[Any]:
    """As vLLM tells them: a later entry of a token stands for an earlier one, and the own token's rank is its true."""
    told: list[Any] = [None]
    for ids, logprobs in rows:
        ranks = [1000, *range(1, len(ids))]
        told.append(
            {
                str(token): {"logprob": logprob, "rank": rank, "decoded_token": None}
                for token, logprob, rank in zip(ids, logprobs, ranks, strict=True)
            }
        )
    return told


def single(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


TOP = 4


@st.composite
def tables(draw: st.DrawFn) -> list[Row]:
    """Rows of the own token, TOP likeliest, and the winner; each may be one of the others."""
    found = []
    for _ in range(draw(st.integers(1, 5))):
        likeliest = draw(st.lists(st.integers(0, 2**31 - 1), min_size=TOP, max_size=TOP, unique=True))
        own, winner = (draw(st.one_of(st.sampled_from(likeliest), st.integers(0, 2**31 - 1))) for _ in range(2))
        known = {token: single(draw(st.floats(-9999, 0))) for token in (*likeliest, own, winner)}
        row = [own, *likeliest, winner]
        found.append((row, [known[token] for token in row]))
    return found


@given(tables(), st.integers(1, 3), st.integers(0, 3))
def test_columns_read_as_entries_do(rows: list[Row], first: int, cut: int) -> None:
    before: list[Row] = [([5], [-1.0])] * (first - 1)
    prompt = [1, *(row[0][0] for row in (*before, *rows))]
    for winners, top in ((True, TOP), (False, TOP + 1)):
        entries = {"choices": [{"prompt_logprobs": as_entries([*before, *rows])}]}
        wanted = read_prefills(entries, prompt, first, top, winners=winners)
        for parts in ((rows,), (rows[:cut], rows[cut:])):
            told = {"choices": [{"prompt_logprobs": as_columns(*filter(None, parts))}]}
            assert read_prefills(told, prompt, first, top, winners=winners) == wanted
            assert [list(one.logprobs) for one in read_prefills(told, prompt, first, top)] == [
                list(one.logprobs) for one in wanted
            ]


GOOD: list[Row] = [([2, 9, 8], [-1.0, -0.5, -2.0]), ([3, 9, 3], [-3.0, -0.25, -3.0])]


@pytest.mark.parametrize(
    "entries",
    [
        as_columns(GOOD[:1]),  # a row is missing
        as_columns(GOOD[::-1]),  # of other tokens
        as_columns(GOOD, width=4),
        as_columns(GOOD, width=0),
        as_columns(GOOD, width=-3),
        as_columns(GOOD[:1], [([3, 9], [-1.0, -0.5])]),
        as_columns([([2, 9, 8], [-1.0, math.nan, -2.0]), GOOD[1]]),
        as_columns([([2, 9, 8], [-1.0, -math.inf, -2.0]), GOOD[1]]),
        as_columns([([2, 9, 8], [-1.0, 5.0, -2.0]), GOOD[1]]),
        as_columns([([2, -9, 8], [-1.0, -0.5, -2.0]), GOOD[1]]),
        [None, {"-1": {"logprob": 0.0, "rank": 3, "decoded_token": "not base64!"}}],
        [None, {"-1": {"logprob": 0.0, "rank": 3, "decoded_token": None}}],
        [None, {"-1": {"logprob": 0.0, "rank": None, "decoded_token": ""}}],
        [None, {"-1": None}],
        [*as_columns(GOOD), {"7": {"logprob": -1.0, "rank": 1}}],
    ],
)
def test_columns_that_are_malformed_are_the_engine_s_failure(entries: list[Any]) -> None:
    for winners in (False, True):
        with pytest.raises(EngineFailedError):
            read_prefills({"choices": [{"prompt_logprobs": entries}]}, [1, 2, 3], 1, 1, winners=winners)


def test_a_column_that_is_not_there_is_no_winner() -> None:
    told = {"choices": [{"prompt_logprobs": as_columns(GOOD)}]}
    assert [one.winner for one in read_prefills(told, [1, 2, 3], 1, 1, winners=True)] == [8, 3]
    assert [one.winner for one in read_prefills(told, [1, 2, 3], 1, 2)] == [None, None]
    with pytest.raises(EngineFailedError, match="a column is missing"):
        read_prefills(told, [1, 2, 3], 1, 2, winners=True)


def test_what_a_prefill_tells_is_checked() -> None:
    def entry(token: int) -> dict[str, object]:
        return {str(token): {"logprob": -1.0}, "9": {"logprob": -0.5}}

    good = {"choices": [{"prompt_logprobs": [None, entry(2), entry(3)]}]}
    (found,) = read_prefills(good, [1, 2, 3], 2, 5)
    assert (dict(found.logprobs), found.top_count) == ({3: -1.0, 9: -0.5}, 1)
    for bad in (
        {},
        {"choices": []},
        {"choices": [{"prompt_logprobs": None}]},
        {"choices": [{"prompt_logprobs": [None, entry(2)]}]},
        {"choices": [{"prompt_logprobs": [None, entry(2), entry(4)]}]},
        {"choices": [{"prompt_logprobs": [None, entry(2), None]}]},
        {"choices": [{"prompt_logprobs": [None, entry(2), {"3": {"logprob": "nan"}}]}]},
        {"choices": [{"prompt_logprobs": [None, entry(2), {"3": {"logprob": 5.0}}]}]},
        {"choices": [{"prompt_logprobs": [None, entry(2), {"x": {"logprob": 1}}]}]},
        {"choices": [{"prompt_logprobs": [None, entry(2), entry(3) | {"-2": {"logprob": -1.0}}]}]},
    ):
        with pytest.raises(EngineFailedError):
            read_prefills(bad, [1, 2, 3], 2, 5)


async def test_a_nonce_is_read_from_columns_and_from_entries() -> None:
    prompts = [[7, 2, 3], [8, 4]]
    rows: list[list[Row]] = [[([2], [-1.0]), ([3], [-0.25])], [([4], [-2.5])]]
    for tell in (as_columns, as_entries):
        asked = []

        def answer(query: httpx.Request, tell: Any = tell, asked: list[Any] = asked) -> httpx.Response:
            asked.append(json.loads(query.content))
            choices = [{"index": at, "prompt_logprobs": tell(part)} for at, part in enumerate(rows)]
            return httpx.Response(200, json={"choices": choices[::-1]})

        async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://engine") as http:
            client = EngineClient(http, "tiny")
            assert await client.prompt_logprobs(prompts, priority=3) == [[-1.0, -0.25], [-2.5]]
        (body,) = asked
        assert (body["prompt_logprobs"], body["priority"], body["vllm_xargs"]) == (0, 3, {"quern_columns": 1})


@pytest.mark.parametrize("entries", [None, [], [None], as_columns([([3], [-1.0])]), as_entries([([3], [-1.0])]), 5])
def test_a_nonce_of_other_tokens_is_the_engine_s_failure(entries: Any) -> None:
    with pytest.raises(EngineFailedError, match="malformed"):
        read_own_logprobs(entries, [1, 2])
