"""The rule's winners on real vLLM: told at every place, in any company, of prompts read whole, in parts or again."""

import math
import random
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from node.engine.arguments import server_command, server_environment
from node.engine.client import EngineClient
from node.engine.columns import are_columns, read_prefills
from node.engine.endpoint import local_endpoint
from node.engine.plugin import COMMON_DIRECTORY, DIRECTORY
from node.engine.server import run_server, socket_path
from node.engine.transport import Traffic, open_http
from node.engine.winners import finds_winners, winner_fields
from node.ml_nodes import default_engine_python
from node.ports import EngineRefusedError
from node.protocol.draws import Drawn, Prefill, draw, token_margins
from node.protocol.noise import noise
from node.protocol.sampling import SamplingParameters
from tests.integration.engine.shared import TINY_MODEL, SharedServer
from tests.integration.engine.test_verifiable_sampling import preemptions, prompt, request, tokens_of

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]
TOP = 50
TIE = 1e-3
"""Single precision, as in the check of draws."""
FREE = (
    SamplingParameters(),
    SamplingParameters(temperature_milli=2000),
    SamplingParameters(temperature_milli=700),
    SamplingParameters(min_p_milli=20),
)
LIMITED = (
    SamplingParameters(temperature_milli=1300, top_k=60),
    SamplingParameters(top_p_milli=950),
    SamplingParameters(temperature_milli=900, top_k=20, top_p_milli=900, min_p_milli=10),
)


async def winners_of(
    client: EngineClient, tokens: Sequence[int], first: int, drawn: Drawn, top: int = TOP
) -> list[int]:
    """Ask as the client does, but for any parameters."""
    body = {"prompt": list(tokens), "max_tokens": 1, "temperature": 0, **winner_fields(drawn, first, top)}
    reply = await client._post("/v1/completions", body)
    assert are_columns(reply["choices"][0]["prompt_logprobs"])
    found = []
    for prefill in read_prefills(reply, tokens, first, top, winners=True):
        assert top <= len(prefill.logprobs) <= top + 2
        assert prefill.winner is not None
        found.append(prefill.winner)
    return found


async def all_logprobs(client: EngineClient, tokens: Sequence[int], first: int) -> list[list[float]]:
    """The whole vocabulary's log-probabilities of each place: a server that is started for tests tells them."""
    reply = await client._post(
        "/v1/completions", {"prompt": list(tokens), "max_tokens": 1, "temperature": 0, "prompt_logprobs": -1}
    )
    found = []
    for entry in reply["choices"][0]["prompt_logprobs"][first:]:
        found.append([entry[str(token)]["logprob"] for token in range(len(entry))])
    return found


def shortfall(logprobs: Sequence[float], token: int, position: int, drawn: Drawn) -> float:
    """By how much `token` falls short of the reference's choice, which is drawn from all logits."""
    wanted = draw(logprobs, drawn.seed, position, drawn.parameters)
    if wanted == token:
        return 0.0
    temperature = drawn.parameters.temperature_milli / 1000
    one, other = (logprobs[t] / temperature + noise(drawn.seed, position, t) for t in (wanted, token))
    return abs(one - other)


@asynccontextmanager
async def telling_server(directory: Path, *more: str) -> AsyncIterator[EngineClient]:
    """A server that tells all log-probabilities, as no operator may ask for."""
    python = default_engine_python()
    async with socket_path(directory / "run", "telling") as socket:
        command = list(server_command(python, socket, TINY_MODEL, "tiny", ("--max-model-len", "2048"), on_cpu=True))
        command[command.index("--max-logprobs") + 1] = "-1"
        async with (
            run_server(
                (*command, *more),
                server_environment(on_cpu=True, kv_cache_gib=1),
                directory / "telling.log",
                directory / "telling.pgid",
            ) as server,
            open_http(local_endpoint(socket), Traffic()) as http,
        ):
            with trio.fail_after(300):
                await server.until_ready(http, lambda _: None)
            yield EngineClient(http, "tiny")


Case = tuple[tuple[int, ...], int, Drawn]


async def logprobs_of(client: EngineClient, cases: Sequence[Case]) -> list[list[list[float]]]:
    return [await all_logprobs(client, tokens, first) for tokens, first, _ in cases]


async def every_winner_is_the_rule_s(
    client: EngineClient, cases: Sequence[Case], everything: list[list[list[float]]]
) -> int:
    """Ask for all at once, beside requests that do not ask; compare with all logits. Return how many are unlikely."""
    found: dict[int, list[int]] = {}
    plain: dict[int, Any] = {}

    async def ask(number: int) -> None:
        tokens, first, drawn = cases[number]
        found[number] = await winners_of(client, tokens, first, drawn)

    async def ask_plainly(number: int) -> None:
        tokens, first, _ = cases[number]
        plain[number] = await client.prefill(tokens, first, top=TOP, priority=10)

    async with trio.open_nursery() as nursery:
        for number in range(len(cases)):
            nursery.start_soon(ask, number)
            nursery.start_soon(ask_plainly, number)
    unlikely = places = differing = 0
    for number, (_, first, drawn) in enumerate(cases):
        for at, (winner, logprobs) in enumerate(zip(found[number], everything[number], strict=True)):
            places += 1
            short = shortfall(logprobs, winner, first + at - 1, drawn)
            differing += short > 0
            limited = drawn.parameters.top_p_milli < 1000 or drawn.parameters.top_k or drawn.parameters.min_p_milli
            assert short <= TIE or limited, (drawn, at)
            likeliest = sorted(range(len(logprobs)), key=lambda token: -logprobs[token])[:TOP]
            unlikely += winner not in likeliest
            told = plain[number][at]
            assert len(told.logprobs) <= TOP + 1
            assert set(likeliest[: TOP - 5]) <= set(told.logprobs)
    assert differing <= max(1, places // 200), f"{differing} of {places}"  # ties, and sums at an edge
    return unlikely


def cases_of(number: int, lengths: Sequence[int]) -> list[Case]:
    source = random.Random(number)
    parameters = (*FREE, *LIMITED)
    return [
        (prompt(number + at, length), source.choice((1, 2, length // 2, length - 1)),
         Drawn(source.getrandbits(63), parameters[at % len(parameters)]))
        for at, length in enumerate(lengths)
    ]  # fmt: skip


async def test_the_winner_of_every_place_is_told_in_any_company(tmp_path: Path) -> None:
    async with telling_server(tmp_path) as client:
        assert await client.tells_winners()
        cases = cases_of(1, [30] * 14)
        everything = await logprobs_of(client, cases)
        assert await every_winner_is_the_rule_s(client, cases, everything) > 5
        # The same prompts again, longer than what vLLM keeps of one: that must not cut what is told.
        long = cases_of(30, [150] * 2)
        for _ in range(2):
            assert await every_winner_is_the_rule_s(client, long, await logprobs_of(client, long)) > 5
        await generations_are_not_disturbed(client)


async def generations_are_not_disturbed(client: EngineClient) -> None:
    """Beside prefills that ask for winners, tokens are drawn as alone."""
    wanted = [request(number, SamplingParameters(), 40) for number in range(1, 9)]
    alone = [await tokens_of(client, one) for one in wanted]
    found: list[tuple[int, ...]] = [()] * len(wanted)

    async def ask(number: int) -> None:
        found[number] = await tokens_of(client, wanted[number])

    async with trio.open_nursery() as nursery:
        for number in range(len(wanted)):
            nursery.start_soon(ask, number)
            nursery.start_soon(winners_of, client, prompt(50 + number, 60), 1, Drawn(number, SamplingParameters()))
    assert found == alone


async def test_prompts_that_are_read_in_parts_or_again_come_out_the_same(tmp_path: Path) -> None:
    """A server that splits prompts into steps of 32 tokens, and whose cache is too small for all it is asked."""
    parts = ("--enable-chunked-prefill", "--max-num-batched-tokens", "32", "--max-num-seqs", "32")
    async with telling_server(tmp_path, *parts, "--num-gpu-blocks-override", "17") as client:
        cases = cases_of(20, [31, 32, 33, 64, 65, 97, 128, 129, 200])
        everything = await logprobs_of(client, cases)
        assert await every_winner_is_the_rule_s(client, cases, everything) > 5
        assert await preemptions(client) == 0
        generating = [
            request(number, SamplingParameters(), 200, prompt_ids=prompt(number, 110)) for number in range(24)
        ]
        async with trio.open_nursery() as nursery:
            for one in generating:
                nursery.start_soon(tokens_of, client, one)
            for _ in range(2):
                assert await every_winner_is_the_rule_s(client, cases, everything) > 5
        assert await preemptions(client) > 0


async def test_audits_see_winners_beyond_the_likeliest(shared_server: SharedServer, tmp_path: Path) -> None:
    """As auditors ask, with the engine as the daemon starts it."""
    async with shared_server.joined(tmp_path) as engine:
        client = engine._ready_client()
        assert isinstance(client, EngineClient)
        assert await finds_winners(client._post)
        drawn = Drawn(77, SamplingParameters())
        wanted = request(7, drawn.parameters, 100, seed=drawn.seed)
        tokens = await tokens_of(engine, wanted)
        whole, first = (*wanted.prompt_ids, *tokens), len(wanted.prompt_ids)
        with_winners = await engine.prefill(whole, first, top=TOP, priority=10, drawn=drawn)
        without = await engine.prefill(whole, first, top=TOP, priority=10)

        def margins(prefills: Sequence[Prefill], seed: int = drawn.seed) -> list[float]:
            return token_margins(first, tokens, prefills, seed, drawn.parameters, engine.vocabulary_size)

        assert max(margins(with_winners)) <= TIE  # honest
        assert [prefill.winner for prefill in with_winners] == list(tokens)
        for one, other in zip(with_winners, without, strict=True):
            assert one.top_count == other.top_count == TOP
            assert all(math.isclose(one.logprobs[token], value) for token, value in other.logprobs.items())
        # Of another seed, more tokens are found wrong, and none less.
        other_drawn = replace(drawn, seed=78)
        told = await engine.prefill(whole, first, top=TOP, priority=10, drawn=other_drawn)
        known, unknown = margins(told, 78), margins(without, 78)
        assert all(one >= other for one, other in zip(known, unknown, strict=True))
        assert sum(known) > sum(unknown) > 0

        for parameters in (SamplingParameters(top_k=20), SamplingParameters(temperature_milli=0)):
            told = await engine.prefill(whole, first, top=TOP, priority=10, drawn=replace(drawn, parameters=parameters))
            assert [prefill.winner for prefill in told] == [None] * len(tokens)
        await what_is_malformed_is_refused(client)


def test_a_model_runner_that_works_another_way_is_left_as_it_is() -> None:
    """In the engine's own environment: the plug-in says so, and the engine works without."""
    script = (
        "import sys, logging; logging.basicConfig(); sys.path[:0] = sys.argv[1:]\n"
        "from quern_winners import METHOD, offer\n"
        "class Other:\n"
        "    def _get_prompt_logprobs_dict(self, hidden_states): return self.sampler.other(hidden_states)\n"
        "class Without: pass\n"
        "before = Other.__dict__[METHOD]\n"
        "assert not offer(Other) and not offer(Without) and Other.__dict__[METHOD] is before\n"
        "class Known:\n"
        "    def _get_prompt_logprobs_dict(self, states, scheduled):\n"
        "        for name in self.num_prompt_logprobs:\n"
        "            request = self.requests[name]\n"
        "            self.model.compute_logits(states)\n"
        "            self.sampler.gather_logprobs(request.num_computed_tokens, request.prompt_token_ids)\n"
        "assert offer(Known); once = Known.__dict__[METHOD]; assert offer(Known) and Known.__dict__[METHOD] is once\n"
    )
    done = subprocess.run(
        [str(default_engine_python()), "-c", script, str(DIRECTORY), str(COMMON_DIRECTORY)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("quern_winners is not offered") == 2


async def what_is_malformed_is_refused(client: EngineClient) -> None:
    body = {"prompt": [1, 2], "max_tokens": 1, "temperature": 0, "prompt_logprobs": 5}
    good = "1 5 1000 0 1000 0 1"
    await client._post("/v1/completions", body | {"vllm_xargs": {"quern_winners": good}})
    await client._post("/v1/completions", body | {"vllm_xargs": {"quern_winners": "1 5 1000 0 1000 0 9999"}})
    for value in (
        "1 5 1000 0 1000 0", "1 5 1000 0 1000 0 0", "2 5 1000 0 1000 0 1", "1 5 0 0 1000 0 1", "1 5 1000 0 0 0 1",
        "1 5 1000 0 1000 0 -1", "1 5 1000 0 1000 0 01", f"1 {2**63} 1000 0 1000 0 1", good + " ", good + "\n", True, 5,
        f"1 5 1000 {2**20 + 1} 1000 0 1", "1 5 2001 0 1000 0 1", "1 5 1000 0 1000 1001 1", [good],
    ):  # fmt: skip
        with pytest.raises(EngineRefusedError, match="quern_winners"):
            await client._post("/v1/completions", body | {"vllm_xargs": {"quern_winners": value}})
    for count in (None, 0, -1):
        more = {"vllm_xargs": {"quern_winners": good}, "prompt_logprobs": count}
        with pytest.raises(EngineRefusedError):
            await client._post("/v1/completions", body | more)
