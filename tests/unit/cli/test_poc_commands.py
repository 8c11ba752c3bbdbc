"""`quern poc` and `why-differ`: what they say of real results, through a real control socket."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from node.cli.poc import FINDINGS
from node.control.methods import Method
from node.control.poc_methods import poc_method_table
from node.control.poc_views import BatchEvidenceView, JudgeView, RecomputedView
from node.operations.poc import DaemonPocOperations
from node.protocol.agreement import committed_order, pack_holders
from node.protocol.differences import Difference
from node.protocol.events import VotesCommitted
from node.protocol.identifiers import Cid, EpochNumber, Hash32
from node.protocol.messages import ResultSignature
from node.protocol.objections import Finding
from node.services.epochs import EpochBook, result_to_bytes
from node.services.formed_results import FormedResult, save_formed
from node.services.mining import MiningProgress, MiningState
from node.services.objecting import ObjectionStatus
from node.services.result_signatures import ResultSignatures
from node.store.books import Books
from node.store.database import Database
from p2p.content.cid import Cid as BlockCid
from p2p.content.cid import Codec
from tests.builders import NODE, SOME_CID, account
from tests.unit.cli.test_reward_commands import AccountedChain, run, two_epochs
from tests.unit.control.serving import serving_opened
from tests.unit.protocol.test_unpaid import SECOND, network
from tests.unit.services.test_epochs import StubContent, StubPresence
from tests.waiting import until

VOTERS = frozenset(account(number) for number in (1, 3, 4))


def add(content: StubContent, data: bytes) -> Cid:
    cid = Cid(str(BlockCid.of(Codec.RAW, data)))
    content.held[cid] = data
    return cid


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("d") / "control.sock"

    @asynccontextmanager
    async def proven() -> AsyncIterator[dict[str, Method]]:
        content: Any = StubContent()
        chain: Any = AccountedChain()
        presence: Any = StubPresence()
        router: Any = SimpleNamespace(register=lambda *_: None)
        votes = (VotesCommitted(SECOND, voter, SOME_CID) for voter in sorted(VOTERS))
        chain.state = network(*two_epochs(content), *votes)
        store = Books(Database(":memory:"), account(2))
        book = EpochBook(chain, content, store, presence)
        signatures = ResultSignatures(chain, router, lambda: None)
        miner: Any = SimpleNamespace(node_id=NODE, progress=MiningProgress(EpochNumber(3), MiningState.MINING, 77))
        difference = Difference("rewards[0x01].cumulative", "", "5", "6")
        standing = ObjectionStatus(
            SECOND, Finding.DOES_NOT_FOLLOW, (difference,), is_voided=False, own=True, objecting=40, total=130
        )
        objecting: Any = SimpleNamespace(status=lambda epoch: standing if epoch == SECOND else None)
        operations = DaemonPocOperations(
            chain, content, store, presence, book, signatures, [miner], objecting=objecting
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(book.run)
            result = await until(book.newest_result)
            # This node did not get the votes of number 4, and found nobody's batch wrong.
            changed = tuple(replace(outcome, mismatches=0) for outcome in result.nodes)
            ours = add(content, result_to_bytes(replace(result, nodes=changed)))
            counted = (account(1), account(3))
            save_formed(store, FormedResult(SECOND, Hash32(bytes(32)), ours, counted, (), (account(4),)))
            accepted = chain.state.results[SECOND].content_cid
            held = pack_holders(VOTERS - {account(3)}, committed_order(VOTERS))
            signature = ResultSignature(SECOND, Hash32(bytes(32)), bytes(65), 0, held, accepted)
            signatures.add(account(1), signature)
            yield poc_method_table(operations)

    with serving_opened(path, proven()):
        yield path


def test_the_batches_of_an_epoch_are_shown_with_what_became_of_them(daemon: Path) -> None:
    shown = run("poc", "1", socket=daemon)
    assert shown.exit_code == 0, shown.output
    view = json.loads(run("poc", "1", "--json", socket=daemon).output)
    fates = {batch["participant"]: (batch["fate"], batch["mismatches"], batch["reason"]) for batch in view["batches"]}
    assert fates[account(1)] == ("accepted", 0, "")
    assert fates[account(3)] == ("rejected", 8, "mismatches")
    assert "more of the sample differs than honest machines ever show" in shown.output
    assert {v["account"] for v in view["validators"] if v["bundle"]} == VOTERS
    assert f"{NODE}: mining, 77 nonces" in shown.output


def test_a_false_result_is_shown_with_who_objects(daemon: Path) -> None:
    shown = run("poc", "1", socket=daemon)
    words = " ".join(shown.output.split())
    assert "false: it does not follow from the votes that it counts (rewards[0x01].cumulative)" in words
    assert "40 of 130 weight objects, this node too" in words
    view = json.loads(run("poc", "1", "--json", socket=daemon).output)
    assert view["objection"]["finding"] == "does-not-follow"
    assert view["objection"]["voided"] is False
    assert json.loads(run("poc", "0", "--json", socket=daemon).output)["objection"] is None


def test_every_finding_has_words() -> None:
    assert FINDINGS.keys() == {finding.value for finding in Finding}


BATCH = BatchEvidenceView(
    epoch=1, participant=account(3), node_id=NODE, model_id="tiny", nonces=900, vectors="bafyvectors", fate="rejected",
    reason="mismatches", words="more of the sample differs", sample=512, distance_max=206_760, rejected_from=6,
    judges=[
        JudgeView(
            account=account(1), weight=40, may_judge=True, verdict="invalid", sampled=512, mismatches=500,
            unrelated=499, largest_distance=3_146_842_142, reason="mismatches", words="more of the sample differs",
            problem="", bundle="bafyvotes", evidence="bafyevidence",
        ),
        JudgeView(
            account=account(4), weight=9, may_judge=False, verdict="", sampled=0, mismatches=0, unrelated=0,
            largest_distance=None, reason="", words="", problem="its votes are not to be had now",
            bundle="bafygone", evidence="",
        ),
    ],
    recomputed=RecomputedView(
        node_id=NODE, verdict="invalid", mismatches=501, largest_distance=3_146_842_199, differing=[(7, 3_146_842_199)]
    ),
)  # fmt: skip


def test_a_batch_is_shown_with_who_judged_it_by_what(daemon: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []

    def answer(_target: object, _method: str, _type: object, params: dict[str, object], **_: object) -> object:
        asked.append(params)
        return BATCH

    monkeypatch.setattr("node.cli.poc.call_daemon", answer)
    named = f"{account(3)}/{NODE}"
    shown = run("poc", "1", "--batch", named, "--recompute", socket=daemon)
    assert shown.exit_code == 0, shown.output
    assert asked == [{"epoch": 1, "participant": account(3), "node_id": NODE, "recompute": True}]
    for told in (
        "rejected mismatches: more of the sample differs", "of 512 nonces drawn, 6 that differ reject it", "206,760",
        "3,146,842,142", "bafyevidence", "499",
        "its votes are not to be had now", "invalid, 501 differ", "3,146,842,199",
    ):  # fmt: skip
        assert told in shown.output
    view = json.loads(run("poc", "1", "--batch", named, "--json", socket=daemon).output)
    assert view["recomputed"]["differing"] == [[7, 3_146_842_199]]


@pytest.mark.parametrize(
    "words", [("--batch", "0x1/node-1"), ("1", "--recompute"), ("1", "--batch", "0x1"), ("1", "--batch", "/node-1")]
)
def test_a_batch_that_is_not_named_whole_is_asked_for_again(daemon: Path, words: tuple[str, ...]) -> None:
    refused = run("poc", *words, socket=daemon)
    assert refused.exit_code == 2
    assert "name the epoch and the batch" in refused.output


def test_an_epoch_without_batches_says_so(daemon: Path) -> None:
    assert "No batch was committed." in run("poc", socket=daemon).output


def test_a_difference_to_the_accepted_result_is_found_to_the_field_with_its_cause(daemon: Path) -> None:
    shown = run("why-differ", "1", "--json", socket=daemon)
    assert shown.exit_code == 1
    view = json.loads(shown.output)
    assert [(d["path"], d["ours"], d["theirs"]) for d in view["differences"]] == [
        (f"nodes[{account(3)}, {NODE}].mismatches", "0", "8")
    ]
    assert view["causes"] == [f"The votes of {account(4)} did not count here: they were not to be had."]


def test_a_difference_to_a_member_names_the_votes_that_it_does_not_hold(daemon: Path) -> None:
    view = json.loads(run("why-differ", "1", "--peer", account(1), "--json", socket=daemon).output)
    assert f"The votes of {account(3)} count here, and the other does not hold them." in view["causes"]
    assert "signed no result" in run("why-differ", "1", "--peer", account(4), socket=daemon).output


def test_a_file_is_compared_and_anything_else_is_refused(daemon: Path, tmp_path: Path) -> None:
    file = tmp_path / "result.bin"
    file.write_bytes(b"nonsense")
    assert "is no epoch result" in run("why-differ", "1", "--file", str(file), socket=daemon).output


def test_an_epoch_this_node_formed_nothing_for_is_refused_with_what_to_do(daemon: Path) -> None:
    refused = run("why-differ", "0", socket=daemon)
    assert refused.exit_code == 1
    assert "formed no result of epoch 0" in refused.output


def test_an_epoch_that_has_not_begun_is_refused_and_one_that_is_over_says_why_it_has_no_result(daemon: Path) -> None:
    refused = run("poc", "9", socket=daemon)
    assert refused.exit_code == 1
    assert "epoch 9 has not begun; this is epoch 3" in refused.output
    over = run("poc", "2", socket=daemon).output
    assert "over, without a result" in over
    assert "nobody committed a batch" in over
