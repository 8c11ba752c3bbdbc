"""Which answers are audited, and by whom: drawn from a block after the books were committed, the same on every node.

Tokens are drawn, not answers: an answer is drawn in proportion to its length, so that long answers do not hide among
many short ones. But a book may be filled at no cost: an executor answers itself under a key of its own, truly, with
the same text as often as it likes. Keys are free and weight is not. So every other draw goes to the payers that are
members, in proportion to their weight, and falls on a token of what one of them asked: whatever else is booked, no
other draw and no other payer's answer is in its way. What an executor can still put there is what a member asked and it
never answered, with as many tokens as were asked for; so no answer has more than PAYER_TOKENS_MAX in these draws. Of
answers that cannot be audited no tokens are booked, so a few draws are of rows, whatever these say of their tokens:
whether they are rightly booked so has to be looked at, too.
Auditors are drawn by weight for each answer, seat by seat, so who they are is not known when the answer is given.
"""

import hashlib
from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from node.protocol.findings import AuditOutcome, ReceiptBook
from node.protocol.identifiers import Address, Hash32, ModelId
from node.protocol.receipt_books import BookRow, payer_bytes
from node.protocol.records import EpochGroup, EpochResult
from node.protocol.slices import ITEMS_PER_SLICE, Slices, finish

AUDITED_PER_MILLE = 4
"""Of the answers in a book. Five auditors at most read each of these: audits cost 2 % of what reading costs against
generating, so 2 % of generating even where to read an answer costs as much as to write it (benchmarks/auditing.py;
docs/soundness.md has the figures)."""
DRAWS_MIN = 10
"""Of a book with few answers: without it a node that answers little would hardly be audited. As many as prove fp8 with
forged log-probabilities in 99 of 100 epochs. Beyond the share above, and little in all. Even, so that payers have half
of them."""
ROW_DRAWS = 2
"""Of these, beyond those of tokens. Few, for most are of answers that nobody may read, and payers look as well."""
PAYER_TOKENS_MAX = 512
"""Of one answer, in the draws that go to payers: what was asked and not answered has no more, though the request asked
for a whole context."""
DRAWS_MAX = 64
"""Of a book with many: what an epoch's bundles and auditors have to carry is bounded."""
SEATS = 5
"""Of the auditors of an answer: three are a majority though two are empty."""
DRAWS_PER_SLICE = 128
"""Draws between two looks at what else there is to do: each takes some ten microseconds."""


@dataclass(frozen=True, slots=True)
class AuditSeeds:
    """What an epoch's audits are drawn by; each was unknown when what it draws from was committed to."""

    draw: Hash32
    """Hash of the first block of FORM of the newest result before: draws from that result's books."""
    lot: Hash32
    """Hash of the first block of this epoch's FORM: chooses among the challenges in this epoch's bundles."""


def draws_of(book: ReceiptBook) -> int:
    """Return how often is drawn from a book; several draws may fall on one answer, which is then audited once."""
    return token_draws_of(book) + min(ROW_DRAWS, book.count)


def token_draws_of(book: ReceiptBook) -> int:
    """Return how many of the draws, the first ones, are of tokens; the others are of rows."""
    if book.output_tokens == 0:
        return 0
    return min(DRAWS_MAX - ROW_DRAWS, max(DRAWS_MIN, book.count * AUDITED_PER_MILLE // 1000), book.count)


def is_of_payer(draw: int, book: ReceiptBook) -> bool:
    """Whether a draw is of what one payer asked: every other one of those of tokens."""
    return draw < token_draws_of(book) and draw % 2 == 1


def drawn_token(seed: Hash32, executor: Address, draw: int, output_tokens: int) -> int:
    """Return which of the book's tokens, or of one payer's, a draw falls on, counted from 0 in the book's order."""
    digest = hashlib.sha256(b"audit-draw\x00" + seed + f"{executor.lower()}/{draw}".encode()).digest()
    return int.from_bytes(digest) % output_tokens


def drawn_row(seed: Hash32, executor: Address, draw: int, count: int) -> int:
    """Return which of the book's rows a draw falls on."""
    digest = hashlib.sha256(b"audit-row\x00" + seed + f"{executor.lower()}/{draw}".encode()).digest()
    return int.from_bytes(digest) % count


def drawn_payer(seed: Hash32, executor: Address, draw: int, weights: Mapping[bytes, int]) -> bytes:
    """Return which of the payers in a book a draw falls to, by positive weight; `weights` has one at least."""
    digest = hashlib.sha256(b"audit-payer\x00" + seed + f"{executor.lower()}/{draw}".encode()).digest()
    payers = sorted(weights)
    ends = list(accumulate(weights[payer] for payer in payers))
    return payers[bisect_right(ends, int.from_bytes(digest) % ends[-1])]


def payer_weights(group: EpochGroup, executor: Address) -> dict[bytes, int]:
    """Return the members by whose weight is drawn from an executor's book, as its rows name them: all but itself."""
    return {
        payer_bytes(member.participant): member.weight
        for member in group.members
        if member.weight > 0 and member.participant != executor
    }


def drawn_rows(
    seed: Hash32, executor: Address, book: ReceiptBook, rows: Sequence[BookRow], group: EpochGroup
) -> dict[int, BookRow]:
    """Return the row that each draw falls on, by draw; of several draws on one row the first.

    `group` is that of the result which has the book.
    """
    return finish(drawn_rows_in_slices(seed, executor, book, rows, group))


def drawn_rows_in_slices(
    seed: Hash32, executor: Address, book: ReceiptBook, rows: Sequence[BookRow], group: EpochGroup
) -> Slices[dict[int, BookRow]]:
    """Return `drawn_rows` in slices."""
    tokens, draws = token_draws_of(book), draws_of(book)
    weights = payer_weights(group, executor)
    ends = array("Q")  # of each row, the tokens up to its end
    signed: dict[bytes, tuple[array[int], array[int]]] = {}  # of each payer, what counts of its rows, and their places
    passed = 0
    for start in range(0, len(rows), ITEMS_PER_SLICE):
        for place, row in enumerate(rows[start : start + ITEMS_PER_SLICE], start):
            passed += row.output_tokens
            ends.append(passed)
            if row.output_tokens and row.payer in weights:
                own_ends, places = signed.setdefault(row.payer, (array("Q"), array("Q")))
                own_ends.append(min(row.output_tokens, PAYER_TOKENS_MAX) + (own_ends[-1] if own_ends else 0))
                places.append(place)
        yield
    present = {payer: weights[payer] for payer in signed}
    by_draw = {}
    for draw in range(draws):
        if draw >= tokens:
            place = drawn_row(seed, executor, draw, book.count)
        elif present and is_of_payer(draw, book):
            own_ends, places = signed[drawn_payer(seed, executor, draw, present)]
            place = places[bisect_right(own_ends, drawn_token(seed, executor, draw, own_ends[-1]))]
        else:
            place = bisect_right(ends, drawn_token(seed, executor, draw, book.output_tokens))
        by_draw[draw] = rows[place]
    found: dict[Hash32, tuple[int, BookRow]] = {}
    for draw in range(draws):
        found.setdefault(by_draw[draw].digest, (draw, by_draw[draw]))
    return dict(found.values())


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Members who may have seats, in the order of their accounts."""

    accounts: tuple[Address, ...]
    ends: tuple[int, ...]
    """Of each, its weight with that of all before it."""
    places: Mapping[Address, int]


class AuditorLots:
    """Draws the auditors of any answers from one group: what all draws need of it is made ready once."""

    def __init__(self, seed: Hash32, group: EpochGroup) -> None:
        self.seed = seed
        self.group = group
        self._served = {
            member.participant: frozenset(node.model_id for node in member.ml_nodes) for member in group.members
        }
        self._candidates: dict[frozenset[ModelId], _Candidates] = {}
        """Members who serve one of these models."""

    def seats(self, executor: Address, draw: int) -> Mapping[Address, int]:
        """Return who audits a drawn answer, with how many of the SEATS; nobody if nobody can.

        Each seat goes to one of those members who serve one of the executor's models, and are not the executor, by
        weight, whoever has the others. So what members can do together depends on what they weigh together, and on
        nothing else: not on how they split it, nor on how few others there are. Who turns out to lack the model of the
        answer itself abstains.
        """
        candidates = self._candidates_for(executor)
        place = candidates.places.get(executor)
        total, left_out, before = (candidates.ends or (0,))[-1], 0, 0
        if place is not None:
            before = candidates.ends[place - 1] if place else 0
            left_out = candidates.ends[place] - before
        if total == left_out:
            return {}
        found: dict[Address, int] = {}
        prefix = b"auditor\x00" + self.seed + f"{executor.lower()}/{draw}/".encode()
        for seat in range(SEATS):
            number = int.from_bytes(hashlib.sha256(prefix + b"%d" % seat).digest()) % (total - left_out)
            if number >= before:
                number += left_out
            account = candidates.accounts[bisect_right(candidates.ends, number)]
            found[account] = found.get(account, 0) + 1
        return found

    def _candidates_for(self, executor: Address) -> _Candidates:
        served = self._served.get(executor)
        if served is None:
            served = models_served(self.group, executor)
        known = self._candidates.get(served)
        if known is None:
            able = (one for one in self.group.members if not served.isdisjoint(self._served[one.participant]))
            ordered = sorted((one for one in able if one.weight > 0), key=lambda one: one.participant.lower())
            accounts = tuple(one.participant for one in ordered)
            known = self._candidates[served] = _Candidates(
                accounts,
                tuple(accumulate(one.weight for one in ordered)),
                {account: place for place, account in enumerate(accounts)},
            )
        return known


def auditors_of(seed: Hash32, executor: Address, draw: int, group: EpochGroup) -> tuple[Address, ...]:
    """Return who has seats for one drawn answer (AuditorLots.seats)."""
    return tuple(AuditorLots(seed, group).seats(executor, draw))


def models_served(group: EpochGroup, account: Address) -> frozenset[ModelId]:
    """Return the models that a member serves; all of the group's for an executor that is no member any more."""
    member = next((member for member in group.members if member.participant == account), None)
    if member is None:
        return frozenset(model.model_id for model in group.models)
    return frozenset(node.model_id for node in member.ml_nodes)


def own_draws(previous: EpochResult, seed: Hash32, account: Address) -> dict[Address, tuple[int, ...]]:
    """Return which draws from whose books an account audits after `previous`, by executor."""
    return finish(own_draws_in_slices(previous, seed, account))


def own_draws_in_slices(
    previous: EpochResult, seed: Hash32, account: Address
) -> Slices[dict[Address, tuple[int, ...]]]:
    """Return `own_draws` in slices."""
    lots, looked_at = AuditorLots(seed, previous.group), 0
    found: dict[Address, tuple[int, ...]] = {}
    for committed in previous.books:
        draws: list[int] = []
        for draw in range(draws_of(committed.book)):
            if account in lots.seats(committed.executor, draw):
                draws.append(draw)
            looked_at += 1
            if looked_at % DRAWS_PER_SLICE == 0:
                yield
        if draws:
            found[committed.executor] = tuple(draws)
    return found


def judges_of(outcome: AuditOutcome, group: EpochGroup) -> frozenset[Address]:
    """Return who judges the answers again that an executor is accused of: all other members with the model."""
    return frozenset(
        member.participant
        for member in group.members
        if member.participant != outcome.executor and any(node.model_id == outcome.model_id for node in member.ml_nodes)
    )
