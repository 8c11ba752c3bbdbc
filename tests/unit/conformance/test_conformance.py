"""Conformance: each thing a server lacks is found, named and priced; what it is good for follows from that."""

import json
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner, Result

from node.cli.main import quern
from node.conformance import checks
from node.conformance.examine import FIRST, GENERATING, examine
from node.conformance.findings import Check, Level, Mark, Report, lacking
from node.conformance.server import open_server
from node.engine.endpoint import parse_endpoint
from tests.unit.conformance.stand_ins import MODEL, MinerStandIn, VllmStandIn, running


async def report_on(stand_in: VllmStandIn | MinerStandIn, model: str = "", key: str = "") -> Report:
    with trio.fail_after(60):
        async with running(stand_in) as url, open_server(parse_endpoint(url, key)) as server:
            return await examine(server, model)


def marks(report: Report) -> dict[str, Mark]:
    return {check.name: check.mark for check in report.checks}


async def test_a_server_like_vllm_does_all_that_can_be_asked_without_the_rule_of_draws() -> None:
    report = await report_on(VllmStandIn())
    assert (report.model, report.server) == (MODEL, "vLLM 0.32.0")
    missing = {check.name for check in lacking(report.checks)}
    assert missing <= {"miner info", "miner chat", "draws"}
    assert (report.level >= Level.PROVE, report.api) == (True, "vllm")


async def test_a_server_with_the_miner_api_alone_can_chat_and_no_more() -> None:
    report = await report_on(MinerStandIn())
    found = marks(report)
    assert (found["health"], found["miner info"], found["miner chat"]) == 3 * (Mark.HOLDS,)
    assert (report.level, report.model, report.api) == (Level.CHAT, MODEL, "miner")
    assert "cannot serve the network" in report.meaning
    assert found["token ids"] is Mark.MISSING
    assert found["usage"] is found["streaming"] is Mark.UNKNOWN


async def test_a_server_with_openai_s_api_alone_can_chat_and_is_told_why_it_cannot_serve() -> None:
    report = await report_on(VllmStandIn(frozenset({"openai only", "no health"})))
    assert (report.level, report.api) == (Level.CHAT, "openai")
    found = {check.name: check for check in report.checks}
    assert found["chat"].mark is found["seeds"].mark is Mark.HOLDS
    assert found["token ids"].mark is Mark.MISSING
    assert "no other node can go on" in found["token ids"].cost
    assert found["prompt logprobs"].mark is Mark.MISSING
    assert found["tokenize"].remedy
    assert found["abort"].mark is Mark.UNKNOWN


@pytest.mark.parametrize(
    ("fault", "name", "words", "level"),
    [
        ("miscounts", "usage", "17 tokens and gives 16", Level.CHAT),
        ("no finish reason", "streaming", "without a finish_reason", Level.CHAT),
        ("one piece", "streaming", "one piece", Level.CHAT),
        ("stream differs", "streaming", "another text", Level.CHAT),
        ("ignores seeds", "seeds", "two answers", Level.CHAT),
        ("one seed", "seeds", "the same answer", Level.CHAT),
        ("dies of bad requests", "refusals", "500", Level.CHAT),
        ("no priority", "priority", "--scheduling-policy", Level.SERVE),
        ("batch changes logprobs", "prompt logprobs", "differ by", Level.SERVE),
        ("greedy is random", "same answer", "answers", Level.CHAT),
    ],
)
async def test_what_a_server_gets_wrong_is_found_and_named(fault: str, name: str, words: str, level: Level) -> None:
    report = await report_on(VllmStandIn(frozenset({fault})))
    (check,) = (check for check in report.checks if check.name == name)
    assert check.fails
    assert words in check.message
    assert check.cost
    assert report.level is level


async def test_a_server_that_works_on_for_readers_who_left_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "ABORT_SECONDS_MAX", 0.3)
    assert marks(await report_on(VllmStandIn()))["abort"] is Mark.HOLDS
    assert marks(await report_on(VllmStandIn(frozenset({"never frees"}))))["abort"] is Mark.WRONG


async def test_a_version_that_the_network_does_not_know_cannot_prove() -> None:
    report = await report_on(VllmStandIn(version="0.1.2"))
    (check,) = (check for check in report.checks if check.name == "version")
    assert (check.mark, report.level) == (Mark.WRONG, Level.SERVE)
    assert "this node has vllm 0.1.2" in check.message


async def test_a_server_of_an_embedding_model_is_asked_for_vectors() -> None:
    report = await report_on(VllmStandIn(frozenset({"embeds"})))
    assert (report.level, report.api) == (Level.AUDIT, "vllm")
    assert marks(report)["embeddings"] is Mark.HOLDS
    assert "token ids" not in marks(report)
    worse = await report_on(VllmStandIn(frozenset({"embeds", "batch changes logprobs"})))
    assert worse.level is Level.SERVE


async def test_the_model_that_is_wanted_must_be_the_one_that_is_served() -> None:
    report = await report_on(VllmStandIn(), model="tiny")
    (check,) = (check for check in report.checks if check.name == "models")
    assert (check.mark, report.level) == (Mark.WRONG, Level.CHAT)
    assert "--served-model-name tiny" in check.remedy


async def test_a_server_that_is_still_loading_or_answers_otherwise_is_no_node_yet() -> None:
    assert marks(await report_on(MinerStandIn(frozenset({"loading"}))))["health"] is Mark.WRONG
    report = await report_on(MinerStandIn(frozenset({"no response"})))
    assert (report.level, marks(report)["miner chat"]) == (Level.NONE, Mark.WRONG)


async def test_nobody_at_home_is_one_finding() -> None:
    async with open_server(parse_endpoint("http://127.0.0.1:1")) as server:
        report = await examine(server)
    assert [check.name for check in report.checks] == ["reachable"]
    assert report.level is Level.NONE


def test_a_level_needs_everything_below_it() -> None:
    chat = Check("chat", Mark.HOLDS, "", Level.CHAT)
    serve = Check("token ids", Mark.HOLDS, "", Level.SERVE)
    prove = Check("prompt logprobs", Mark.HOLDS, "", Level.PROVE)
    audit = Check("draws", Mark.HOLDS, "", Level.AUDIT)
    whole = Report("m", "", (chat, serve, prove, audit))
    assert whole.level is Level.AUDIT
    for broken, level in ((chat, Level.NONE), (serve, Level.CHAT), (prove, Level.SERVE), (audit, Level.PROVE)):
        for mark in (Mark.MISSING, Mark.WRONG, Mark.UNKNOWN):
            worse = Check(broken.name, mark, "", broken.needed_for)
            rest = tuple(worse if check is broken else check for check in whole.checks)
            assert Report("m", "", rest).level is level


def test_every_level_has_something_that_it_needs() -> None:
    assert {level for _, level, _ in (*FIRST, *GENERATING)} == {None, Level.CHAT, Level.SERVE, Level.PROVE, Level.AUDIT}


async def run(*arguments: str) -> Result:
    return await trio.to_thread.run_sync(CliRunner().invoke, quern, ["conformance", *arguments])


async def test_the_command_says_line_by_line_what_holds_and_its_exit_code_what_was_needed() -> None:
    async with running(MinerStandIn()) as url:
        enough = await run(url, "--need", "chat")
        assert enough.exit_code == 0, enough.output
        assert "miner chat" in enough.stdout
        assert "needed to serve" in enough.stdout
        assert (await run(url)).exit_code == 1
        as_json = await run(url, "--need", "chat", "--json")
        assert json.loads(as_json.stdout)["level"] == "chat"


async def test_the_command_shows_a_key_to_a_server_that_asks_for_one(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("hush\n")
    async with running(VllmStandIn(key="hush")) as url:
        exposed = await run(url, "--api-key-file", str(key))
        assert (exposed.exit_code, "chmod 600" in exposed.stderr) == (1, True)
        key.chmod(0o600)
        shown = await run(url, "--api-key-file", str(key), "--need", "serve", "--json")
        assert shown.exit_code == 0, shown.output
        assert "hush" not in shown.output
        assert json.loads((await run(url, "--json")).stdout)["level"] != "prove"


async def test_an_address_that_is_none_is_refused() -> None:
    result = await run("ftp://example.org")
    assert result.exit_code == 1
    assert "expected http" in result.stderr
