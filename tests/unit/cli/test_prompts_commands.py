"""`quern prompts` and the ways to ask: through a real control socket, over canned prompts."""

import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from node.cli.main import quern
from node.control.jsonrpc import ErrorCode, RpcError
from node.control.methods import AskParams, method_table
from node.control.prompt_methods import PromptReclaimParams, PromptShowParams, prompt_method_table
from node.control.prompt_views import PromptAnswerView, PromptAsksView, PromptAskView, ReclaimedView
from node.control.views import AskEvent, AskView
from tests.unit.control.canned import ACCOUNT, CannedOperations
from tests.unit.control.serving import serving

ANSWERED = PromptAskView(
    ask_id="0f" * 16, mode="open", state="answered", reason="", model_id="tiny", private=True, asked_at=1,
    prompt_id=None, prompt_cid="bafy", result_cid="bafz", executor=ACCOUNT, prompt_tokens=3, output_tokens=4,
    price=str(5 * 10**17), transaction=None,
)  # fmt: skip
WAITING = ANSWERED.model_copy(
    update={
        "ask_id": "0e" * 16, "mode": "chain", "state": "waiting", "private": False, "prompt_id": 7,
        "result_cid": None, "executor": None, "prompt_tokens": 0, "output_tokens": 0, "price": "0",
    }
)  # fmt: skip


class CannedPrompts:
    async def list_prompts(self) -> PromptAsksView:
        return PromptAsksView(asks=[WAITING, ANSWERED])

    async def show_prompt(self, params: PromptShowParams) -> PromptAnswerView:
        if params.ask_id == ANSWERED.ask_id:
            return PromptAnswerView(ask=ANSWERED, text="flour", finish_reason="stop")
        return PromptAnswerView(ask=WAITING, text=None, finish_reason=None)

    async def reclaim_prompt(self, params: PromptReclaimParams) -> ReclaimedView:
        if params.prompt_id != 7:
            raise RpcError(ErrorCode.REFUSED, "not one of this account's", "See `quern chain prompts`.")
        return ReclaimedView(prompt_id=7)


class NotingOperations(CannedOperations):
    def __init__(self) -> None:
        super().__init__()
        self.asked: list[AskParams] = []

    async def ask(self, params: AskParams, emit: Callable[[AskEvent], Awaitable[None]]) -> AskView:
        self.asked.append(params)
        if params.open or params.on_chain:
            await emit(AskEvent(text="", state="0f: waiting"))
        return await super().ask(params, emit)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(quern, list(arguments))


@pytest.fixture
def asked() -> NotingOperations:
    return NotingOperations()


@pytest.fixture
def daemon(tmp_path: Path, asked: NotingOperations) -> Iterator[str]:
    """A control server in a thread of its own; gives its socket."""
    path = tmp_path / "control.sock"
    with serving(path, method_table(asked) | prompt_method_table(CannedPrompts())):
        yield str(path)


def test_prompts_are_listed_with_how_far_they_are(daemon: str) -> None:
    result = run("prompts", "list", "--socket", daemon)
    assert result.exit_code == 0, result.output
    for word in ("waiting", "answered", "open, private", "3 + 4", "0.5", ANSWERED.ask_id):
        assert word in result.stdout
    listed = json.loads(run("prompts", "list", "--socket", daemon, "--json").stdout)
    assert [ask["mode"] for ask in listed["asks"]] == ["chain", "open"]


def test_an_answer_goes_to_standard_output_alone(daemon: str) -> None:
    result = run("prompts", "show", ANSWERED.ask_id, "--socket", daemon)
    assert result.stdout == "flour\n"
    assert "0.5" in result.stderr
    waiting = run("prompts", "show", WAITING.ask_id, "--socket", daemon)
    assert waiting.stdout == ""
    assert "waiting" in waiting.stderr


def test_an_escrow_is_reclaimed_or_it_is_said_why_not(daemon: str) -> None:
    assert "is back" in run("prompts", "reclaim", "7", "--socket", daemon).stdout
    refused = run("prompts", "reclaim", "8", "--socket", daemon)
    assert refused.exit_code == 1
    assert "not one of this account" in refused.stderr
    assert run("prompts", "show", "nonsense", "--socket", daemon).exit_code == 1


def test_the_ways_to_ask_reach_the_daemon_and_progress_is_told_beside_the_answer(
    daemon: str, asked: NotingOperations
) -> None:
    result = run("ask", "--open", "--private", "who knows", "--socket", daemon)
    assert result.stdout == "who knows \n"
    assert "[0f: waiting]" in result.stderr
    assert (asked.asked[0].open, asked.asked[0].private, asked.asked[0].on_chain) == (True, True, False)
    assert run("ask", "--open", "--on-chain", "x", "--socket", daemon).exit_code == 2
