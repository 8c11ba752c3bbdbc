"""`quern score`, `rewards` and `why-not-paid`: what they say of real results, through a real control socket."""

import itertools
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click
import pytest
import trio
import trio.testing
from click.testing import CliRunner, Result

from node.cli.main import quern
from node.control.methods import Method
from node.control.reward_methods import RewardsParams, reward_method_table
from node.operations.remedies import REMEDIES, WITHOUT_REMEDY
from node.operations.rewards import FETCH_SECONDS_MAX, DaemonRewardOperations
from node.ports import Head
from node.protocol import bundles, outcomes, scores, tails, unpaid
from node.protocol.events import EpochResultPosted, EventBody, GroupStored, RewardClaimed
from node.protocol.identifiers import BlockNumber, Cid, EpochNumber, TokenAmount
from node.protocol.records import EpochResult
from node.protocol.results import form_epoch_result, summarise
from node.protocol.verdicts import Verdict
from node.services.epochs import EpochBook, result_to_bytes
from node.store.books import Books
from node.store.database import Database
from p2p.content.cid import Cid as BlockCid
from p2p.content.cid import Codec
from tests.builders import PARAMETERS, account, commit
from tests.unit.control.serving import serving_opened
from tests.unit.protocol.test_unpaid import FIRST, MEMBERS, SECOND, first_result, network, votes
from tests.unit.services.test_epochs import StubChain, StubContent, StubPresence
from tests.waiting import until

THIRD = EpochNumber(2)


class AccountedChain(StubChain):
    """That of participant 2, in the fourth epoch."""

    account = account(2)

    def __init__(self) -> None:
        super().__init__()
        block = BlockNumber(3 * PARAMETERS.epoch_blocks + 1)
        self.head = Head(block, block)


def posted(content: StubContent, result: EpochResult) -> tuple[EventBody, ...]:
    data = result_to_bytes(result)
    summary, _ = summarise(result, Cid(str(BlockCid.of(Codec.RAW, data))))
    content.held[summary.content_cid] = data
    weights = tuple((member.participant, member.weight) for member in result.group.members)
    return GroupStored(summary.validator_set_hash, weights), EpochResultPosted(summary, account(1))


def two_epochs(content: StubContent) -> tuple[EventBody, ...]:
    """In the first everybody does everything; in the second number 3 cheats, 2 does not vote and 4 does nothing."""
    first = first_result()
    batches = [commit(number, 100, epoch=1) for number in (1, 2, 3)]
    state = network(*batches)
    bundles = votes(state, SECOND, {account(3): Verdict.INVALID})
    del bundles[account(2)]
    second = form_epoch_result(SECOND, state, PARAMETERS, bundles, first)
    assert second is not None
    claim = RewardClaimed(account(2), TokenAmount(1000))
    return *batches, *posted(content, first), *posted(content, second), claim


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("d") / "control.sock"

    @asynccontextmanager
    async def accounted() -> AsyncIterator[dict[str, Method]]:
        content: Any = StubContent()
        chain: Any = AccountedChain()
        presence: Any = StubPresence()
        chain.state = network(*two_epochs(content))
        store = Books(Database(":memory:"), account(2))
        book = EpochBook(chain, content, store, presence)
        operations = DaemonRewardOperations(chain, content, store, presence, book)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(book.run)
            await until(book.newest_result)
            yield reward_method_table(operations)

    with serving_opened(path, accounted()):
        yield path


def run(*arguments: str, socket: Path) -> Result:
    return CliRunner().invoke(quern, [*arguments, "--socket", str(socket)])


def test_the_score_is_shown_with_a_reason_for_every_lost_point(daemon: Path) -> None:
    shown = run("score", socket=daemon)
    assert shown.exit_code == 0, shown.output
    assert "0.900" in shown.output
    assert "no-votes" in shown.output
    assert "it committed no valid bundle of votes" in shown.output
    everybody = run("score", "--all", socket=daemon)
    assert all(account(number) in everybody.output for number in MEMBERS)
    other = json.loads(run("score", account(1).lower(), "--json", socket=daemon).output)
    assert other["scores"][0]["participant"] == account(1)


def test_a_stranger_s_score_is_refused_with_what_to_do(daemon: Path) -> None:
    refused = run("score", account(77), socket=daemon)
    assert refused.exit_code == 1
    assert "has no score in epoch 1" in refused.output


def test_rewards_of_the_newest_epochs_are_listed_with_what_is_missing(daemon: Path) -> None:
    view = json.loads(run("rewards", "--json", socket=daemon).output)
    assert [(epoch["epoch"], epoch["has_result"]) for epoch in view["epochs"]] == [(2, False), (1, True), (0, True)]
    for epoch in view["epochs"]:
        assert int(epoch["most"]) == int(epoch["paid"]) + int(epoch["not_paid"])
    assert int(view["cumulative"]) == sum(int(epoch["paid"]) for epoch in view["epochs"])
    assert view["claimed"] == "1000"
    assert "no result" in run("rewards", socket=daemon).output


@pytest.mark.parametrize(
    ("epoch", "number", "reasons"),
    [
        (FIRST, 1, set()),
        (SECOND, 1, {"no-batch", "coverage"}),
        (SECOND, 2, {"coverage", "no-votes"}),
        (SECOND, 4, {"no-batch"}),
        (THIRD, 2, {"no-result"}),
        (THIRD, 4, set()),  # no member any more: there was nothing to be earned
    ],
)
def test_every_unit_that_was_not_paid_is_explained(
    daemon: Path, epoch: EpochNumber, number: int, reasons: set[str]
) -> None:
    view = json.loads(run("why-not-paid", str(epoch), account(number), "--json", socket=daemon).output)
    assert {part["reason"] for part in view["parts"]} == reasons
    assert all(part["words"] for part in view["parts"])
    assert int(view["most"]) - int(view["paid"]) == sum(int(part["amount"]) for part in view["parts"])
    assert (view["evidence"] == "") is (epoch == THIRD)
    assert view["models_lacking"] == (["big"] if "coverage" in reasons else [])
    assert bool(view["why_nothing"]) is (int(view["most"]) == 0)


def test_who_had_nothing_to_earn_is_told_why(daemon: Path) -> None:
    shown = run("why-not-paid", "1", account(77), socket=daemon)
    assert shown.exit_code == 0, shown.output
    assert "no batch to count; the account is no participant" in shown.output


def test_the_explanation_reads_well_and_an_unsettled_epoch_is_refused(daemon: Path) -> None:
    shown = run("why-not-paid", "1", socket=daemon)
    assert shown.exit_code == 0, shown.output
    assert "no coverage bonus" in shown.output
    assert "Models it did not serve: big" in shown.output
    assert "Everything was paid" in run("why-not-paid", "0", account(1), socket=daemon).output
    refused = run("why-not-paid", "3", socket=daemon)
    assert refused.exit_code == 1
    assert "epoch 3 is not settled yet" in refused.output


def test_what_to_do_stands_below_and_a_lost_epoch_says_who_did_not_vote(daemon: Path) -> None:
    view = json.loads(run("why-not-paid", "2", "--json", socket=daemon).output)
    (part,) = view["parts"]
    assert "nobody committed a batch" in part["words"]
    assert "`quern poc 2`" in part["remedy"]
    assert f"→ {part['remedy']}" in run("why-not-paid", "2", socket=daemon).output
    assert "quern why-not-paid 2" in run("rewards", socket=daemon).output


@pytest.mark.parametrize("command", [("score",), ("rewards",), ("why-not-paid", "1")])
@pytest.mark.parametrize(
    ("typed", "said"),
    [("0x1234", "is no account"), (account(1)[:-1] + "x", "is no account"), (account(1).swapcase(), "is no account")],
)
def test_what_is_no_account_is_said_in_words(daemon: Path, command: tuple[str, ...], typed: str, said: str) -> None:
    refused = run(*command, typed, socket=daemon)
    assert refused.exit_code == 1
    assert said in refused.output
    assert "pattern" not in refused.output


def test_a_mistyped_account_is_not_looked_up(daemon: Path) -> None:
    wrong = next(digit for digit in "0123456789" if digit != account(1)[2])
    mistyped = f"0x{wrong}{account(1)[3:]}"
    refused = run("why-not-paid", "1", mistyped, socket=daemon)
    assert refused.exit_code == 1
    assert "is mistyped" in refused.output
    stranger = run("why-not-paid", "1", account(77), socket=daemon)
    assert "no weight in the group" in stranger.output


OUTCOMES = [
    outcomes.TOO_MANY, outcomes.MISMATCHES, outcomes.COPIED, outcomes.TOO_SMALL, outcomes.CUMULATED,
    outcomes.UNREGISTERED, outcomes.EMPTY, outcomes.NOBODY_ABLE, outcomes.SPLIT, outcomes.TOO_FEW_AGAINST,
    outcomes.NARROWLY, outcomes.FILE_WITHHELD, outcomes.FEW_JUDGES, outcomes.DIFFERING,
    tails.NOT_COMPUTED, tails.EVIDENCE_WITHHELD, tails.EVIDENCE_DIFFERS, *bundles.REFUSALS,
]  # fmt: skip


def test_every_reason_that_can_cost_pay_has_words_and_a_remedy_or_a_word_why_there_is_none() -> None:
    known = unpaid.REASONS.keys() | scores.REASONS.keys()
    assert known >= set(OUTCOMES)
    assert known == REMEDIES.keys() | WITHOUT_REMEDY.keys()
    assert not REMEDIES.keys() & WITHOUT_REMEDY.keys()
    assert all(REMEDIES.values()) and all(WITHOUT_REMEDY.values())


@pytest.mark.parametrize("remedy", REMEDIES.values())
def test_a_remedy_names_only_commands_that_exist(remedy: str) -> None:
    for words in re.findall(r"`quern ([a-z -]+)", remedy):
        command: click.Command | None = quern
        for word in itertools.takewhile(lambda word: not word.startswith("-"), words.split()):
            if isinstance(command, click.Group):
                command = command.get_command(click.Context(command), word)
        assert command is not None, words
        assert not isinstance(command, click.Group) or command.invoke_without_command, words


class Withholding(StubContent):
    """What is not here nobody gives."""

    async def read_bytes(self, cid: Cid, providers: object, *, limit_bytes: int) -> bytes:
        if cid not in self.held:
            await trio.sleep_forever()
        return await super().read_bytes(cid, providers, limit_bytes=limit_bytes)


async def test_a_result_that_nobody_has_costs_its_own_line_only(autojump_clock: trio.testing.MockClock) -> None:
    content = Withholding()
    chain: Any = AccountedChain()
    presence: Any = StubPresence()
    chain.state = network(*two_epochs(content))
    del content.held[chain.state.results[FIRST].content_cid]
    store = Books(Database(":memory:"), account(2))
    operations = DaemonRewardOperations(chain, content, store, presence, EpochBook(chain, content, store, presence))
    started = trio.current_time()
    view = await operations.rewards(RewardsParams(epochs=8))
    assert trio.current_time() - started <= FETCH_SECONDS_MAX
    assert [(epoch.epoch, epoch.is_known) for epoch in view.epochs] == [(2, True), (1, False), (0, False)]
    assert view.cumulative is not None
    del content.held[chain.state.results[SECOND].content_cid]
    assert (await operations.rewards(RewardsParams(epochs=1))).cumulative is None
