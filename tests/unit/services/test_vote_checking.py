"""Checks of votes: who only asked late, or has nothing ready yet, blames nobody, and says so rather than nothing."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import trio

from netsim.chain import SimulatedChain
from netsim.clock import run_deterministically
from netsim.content import ContentExchange, SimulatedContent
from netsim.engine import SimulatedEngine
from netsim.ledger import Ledger
from netsim.scenario import BLOCK_SECONDS, PARAMETERS
from netsim.trace import Trace
from node.ports import ContentUnavailableError, Provider
from node.protocol.codec import to_bytes
from node.protocol.events import VotesCommitted
from node.protocol.findings import VoteCheck, VoteEvidence, VoteFigures
from node.protocol.identifiers import Address, BlockNumber, Cid, EpochNumber, ModelId
from node.protocol.judges import Judges
from node.protocol.records import PocVote, VoteBundle
from node.protocol.stages import Stage, first_block_of
from node.protocol.tails import EVIDENCE_WITHHELD, NO_TIME, NOBODY_CHECKED, NOT_COMPUTED
from node.protocol.verdicts import Verdict
from node.services.epochs import EpochBook
from node.services.judging import Judging, judging_of
from node.services.presence import PresenceTable
from node.services.recomputing import recompute
from node.services.vote_checking import Found, VoteChecker
from node.store.books import Books
from node.store.database import Database
from tests.builders import NODE, TINY, account, bundle_of, commit, group_set, key_of, model, registered

EPOCH = EpochNumber(0)
CHECKED = account(2)
BATCH = (account(3), NODE)
BEGIN = first_block_of(1, Stage.SERVE, PARAMETERS)
END = first_block_of(1, Stage.GENERATE, PARAMETERS)
ALWAYS = range(0, 10**9)


class LateContent(SimulatedContent):
    """Has the evidence at some blocks only."""

    had_at: range = ALWAYS
    now: Callable[[], int]
    evidence: Cid | None = None

    async def read_bytes(self, cid: Cid, providers: Sequence[Provider], *, limit_bytes: int) -> bytes:
        if cid == self.evidence and self.now() not in self.had_at:
            await trio.lowlevel.checkpoint()
            raise ContentUnavailableError("nobody has it now")
        return await super().read_bytes(cid, providers, limit_bytes=limit_bytes)


async def _voted(
    content: SimulatedContent, judging: Judging, *, is_lazy: bool, has_votes: bool
) -> tuple[VoteBundle, Cid | None]:
    """Return a bundle of account 2, and its evidence; a lazy one guesses its tails."""
    if not has_votes:
        return bundle_of(2), None
    sample, seeds = judging.sample_of(BATCH), (judging.generate_seed, judging.sample_seed)
    engine = SimulatedEngine(NODE, TINY, "honest", 0.0, 2)
    own = await recompute(engine, model(), BATCH, sample, *seeds, CHECKED)
    figures = VoteFigures(*BATCH, (0,) * len(sample), (5_000,) * len(sample) if is_lazy else own.tails)
    evidence = await content.add_bytes(to_bytes(VoteEvidence(EPOCH, CHECKED, (figures,))))
    vote = PocVote(*BATCH, Verdict.VALID, len(sample), (), "")
    return replace(bundle_of(2, vote), evidence_cid=evidence), evidence


def check_all(
    *,
    had_at: range = ALWAYS,
    starts_at: int = 0,
    ready_at: int = 0,
    is_registered: bool = True,
    is_lazy: bool = False,
    has_votes: bool = True,
    judges: Judges | None = None,
) -> Found:
    """Have account 1 check account 2's votes of the first epoch; `starts_at`, `ready_at`: blocks at which its daemon
    starts and its engine has the model. Returns what it says; by default all have proven TINY."""

    async def in_charge(_epoch: EpochNumber) -> tuple[dict[Address, int], Judges]:
        await trio.lowlevel.checkpoint()
        return dict.fromkeys(TRIO, 1), judges or Judges({TINY: TRIO})

    async def main() -> Found:
        trace = Trace()
        ledger = Ledger(PARAMETERS, BLOCK_SECONDS, 0, trace, group_set(0, {1: 1, 2: 1, 3: 1}).weights)
        ledger.register_model(model())
        content = LateContent(ContentExchange(trace), "host", 1)
        content.now, content.had_at = lambda: ledger.height, had_at
        chain = SimulatedChain(ledger, key_of(1), confirmations=2)
        presence = PresenceTable(chain, lambda: 0)
        epochs = EpochBook(chain, content, Books(Database(":memory:"), account(1)), presence)
        engine = SimulatedEngine(NODE, TINY, "honest", 0.0, 1)
        checker = VoteChecker(chain, content, presence, epochs, [engine])
        vars(checker)["_in_charge"] = in_charge
        nodes = registered(1) if is_registered else []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ledger.produce_blocks)
            ledger._seal_block([*nodes, *registered(3), commit(3, 64)])
            await trio.sleep((first_block_of(0, Stage.VOTE_EXCHANGE, PARAMETERS) + 1 - ledger.height) * BLOCK_SECONDS)
            state = await chain.state_at(BlockNumber(ledger.height - 2))
            judging = await judging_of(chain, epochs, EPOCH, state)
            bundle, content.evidence = await _voted(content, judging, is_lazy=is_lazy, has_votes=has_votes)
            ledger._seal_block([VotesCommitted(EPOCH, CHECKED, await content.add_bytes(to_bytes(bundle)))])
            engine.model_id = None
            await trio.sleep((max(starts_at, ledger.height) - ledger.height) * BLOCK_SECONDS)
            nursery.start_soon(checker.run)
            await trio.sleep((max(ready_at, ledger.height) - ledger.height) * BLOCK_SECONDS)
            engine.model_id = TINY
            await trio.sleep((END + 1 - ledger.height) * BLOCK_SECONDS)
            nursery.cancel_scope.cancel()
        return checker._checks[EPOCH]

    return run_deterministically(main, 0)


def check(**options: Any) -> VoteCheck | None:
    """As check_all, of TINY alone."""
    found = check_all(**options)
    assert found.keys() <= {(CHECKED, TINY)}
    return found.get((CHECKED, TINY))


def said_of(found: VoteCheck | None) -> tuple[Verdict, str] | None:
    return None if found is None else (found.verdict, found.reason)


HALF = (BEGIN + END) // 2 + 1
COMPUTED = (Verdict.VALID, "")
UNKNOWN = (Verdict.ABSTAIN, NO_TIME)
NOTHING_TO_CHECK = (Verdict.ABSTAIN, NOBODY_CHECKED)
WITHHELD = (Verdict.INVALID, EVIDENCE_WITHHELD)


@pytest.mark.parametrize(("is_lazy", "said"), [(False, COMPUTED), (True, (Verdict.INVALID, NOT_COMPUTED))])
@pytest.mark.parametrize("ready_at", [0, HALF])
def test_votes_are_checked_by_an_engine_as_soon_as_it_is_ready(
    ready_at: int, is_lazy: bool, said: tuple[Verdict, str]
) -> None:
    """After a restart it loads for minutes."""
    assert said_of(check(ready_at=ready_at, is_lazy=is_lazy)) == said


def test_an_engine_that_is_never_ready_blames_nobody() -> None:
    assert said_of(check(ready_at=END)) == UNKNOWN
    assert said_of(check(ready_at=END, is_registered=False)) == (Verdict.ABSTAIN, NOBODY_CHECKED)


@pytest.mark.parametrize(
    ("starts_at", "had_at", "ready_at", "said"),
    [
        pytest.param(0, range(0), 0, WITHHELD, id="never had"),
        pytest.param(HALF, range(0), 0, UNKNOWN, id="asked late"),
        pytest.param(0, range(HALF, END), 0, COMPUTED, id="had late and computed"),
        pytest.param(0, range(HALF, END), END, WITHHELD, id="had too late"),
        pytest.param(0, range(BEGIN + 4, END), END, UNKNOWN, id="had in time and not computed"),
        pytest.param(HALF, ALWAYS, 0, COMPUTED, id="asked late and computed"),
    ],
)
def test_evidence_is_withheld_that_was_not_to_be_had_while_there_was_time(
    starts_at: int, had_at: range, ready_at: int, said: tuple[Verdict, str]
) -> None:
    assert said_of(check(starts_at=starts_at, had_at=had_at, ready_at=ready_at)) == said


def test_where_no_evidence_is_due_a_checker_says_so() -> None:
    """Its silence would leave the say to those who lie."""
    assert said_of(check(has_votes=False)) == (Verdict.ABSTAIN, NOBODY_CHECKED)


RARE = ModelId("rare")
TRIO = {account(number): 5 for number in (1, 2, 3)}


@pytest.mark.parametrize("has_votes", [True, False])
def test_on_a_model_without_votes_a_checker_says_that_it_does_not_know(*, has_votes: bool) -> None:
    """Silence would leave the say to those who lie, and what is found of another model says nothing of this one."""
    found = check_all(judges=Judges({TINY: TRIO, RARE: TRIO}), has_votes=has_votes)
    said = {model_id: said_of(one) for (_, model_id), one in found.items()}
    assert said == {TINY: COMPUTED if has_votes else NOTHING_TO_CHECK, RARE: NOTHING_TO_CHECK}


def test_who_has_but_another_model_than_the_votes_are_on_abstains_without_a_look() -> None:
    judges = Judges({TINY: {CHECKED: 5, account(3): 5}, RARE: TRIO})
    found = check_all(judges=judges, had_at=range(0))
    assert {model_id: said_of(one) for (_, model_id), one in found.items()} == {RARE: NOTHING_TO_CHECK}


def test_who_shares_no_model_with_a_validator_says_nothing_of_it() -> None:
    judges = Judges({TINY: {CHECKED: 5, account(3): 5}, RARE: {account(1): 5, account(3): 5}})
    assert check_all(judges=judges) == {}
