"""What each cheat is worth under the example plan, in tokens: python -m benchmarks.cheats

A cheat gains something while it lasts, is caught with some chance in each epoch, and pays once.
Where it is caught, what measured it is named in docs/soundness.md. The plan is that of docs/operators.md: 64 members
share 900 tokens an epoch, 500 tokens of collateral, fraud costs all of it and 30 epochs without earnings. Who is
barred may come back with a new account and new collateral, so these epochs count no more than what that takes: one
epoch of mining before the first reward.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import click

from node.cli.render import print_table
from node.protocol.asking import ANSWER_EPOCHS_MAX
from node.protocol.audit_sampling import (
    AUDITED_PER_MILLE,
    DRAWS_MAX,
    DRAWS_MIN,
    PAYER_TOKENS_MAX,
    ROW_DRAWS,
    SEATS,
    token_draws_of,
)
from node.protocol.binomial import detection_per_million, reject_from
from node.protocol.due_books import BOOKS_REMEMBERED_EPOCHS
from node.protocol.findings import ReceiptBook
from node.protocol.history import PARTS, WINDOWS_EPOCHS
from node.protocol.identifiers import Address, Cid, Hash32, NodeId
from node.protocol.nonces import draw_sample
from node.protocol.outcomes import DIFFERING_COUNTS
from node.protocol.scores import AVAILABILITY_TENTHS, PARTICIPATION_TENTHS, QUALITY_TENTHS
from node.services.omission_handing import HOLDERS

MILLION = 1_000_000
MEMBERS = 64
SUBSIDY = 900.0
REWARD = SUBSIDY / MEMBERS
"""Of one member in an epoch, in tokens: about 14."""
COLLATERAL = 500.0
FRAUD_BURNS = 1.0
BARRED_EPOCHS = 30
REENTRY_EPOCHS = 1
"""What a new account waits for its first reward: nothing tells it from its owner's old one."""
UNIT_PRICE = 0.000_001
ENGINE_TOKENS_PER_SECOND = 50
EPOCH_SECONDS = 86_400
FEES = ENGINE_TOKENS_PER_SECOND * EPOCH_SECONDS * UNIT_PRICE
"""What an engine that answers all day takes in an epoch: 4.3 tokens."""
FRAUD_COST = COLLATERAL * FRAUD_BURNS + min(BARRED_EPOCHS, REENTRY_EPOCHS) * (REWARD + FEES)
"""What a verdict of fraud takes: the collateral, and the epochs until its owner earns again, by whichever way is
shorter."""
ANSWER_TOKENS = 256
BUSY_ANSWERS = ENGINE_TOKENS_PER_SECOND * EPOCH_SECONDS // ANSWER_TOKENS
"""Of an engine that answers all day: 16,875."""
DRAWS_OF_A_BUSY_ENGINE = min(DRAWS_MAX - ROW_DRAWS, BUSY_ANSWERS * AUDITED_PER_MILLE // 1000)
"""Of tokens, from the book of an engine that answers all day: 62."""
VERDICT_EPOCHS = 9
"""A verdict may take so long; until then answers are paid."""
SAMPLE_SIZE = 512
MISMATCH_PER_MILLION = 281
"""p0 of `quern calibrate`'s 16,384 nonces without a mismatch."""
ACCOUNT = Address("0x" + "11" * 20)
RUNS = 400
PADDING_TOKENS = 32_000
PADDINGS = (0, 100, 1_000, 260_000)
UNANSWERED = (0.01, 0.05, 0.1, 0.2)
HIDERS = (BUSY_ANSWERS, 1_800, 100)
HIDDEN_SHARES = (0.001, 0.01, 0.1, 1.0)
TAKEN_OFF = (0, 1, DIFFERING_COUNTS)
SITTING_SHARES = (0.0, 1 / 3, 0.5, 0.7)
"""Of the weight, that takes proofs of payers without weight and does not vote on them."""
LEFT_OUT = (1, 16, 100, 320)
FAKED_SHARES = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)


@dataclass(frozen=True, slots=True)
class Faking:
    """A share of nonces that is made up, every epoch."""

    share: float
    in_one: float
    """Chance of being rejected within one epoch."""
    in_three: float
    in_ten: float
    in_thirty: float
    gain_per_epoch: float
    """Expected, in rewards of an epoch, if it goes on: what it adds less what rejections take."""


@dataclass(frozen=True, slots=True)
class Answering:
    """Answers that the model did not give, all day."""

    name: str
    gain: float
    """What it may take or save in an epoch, in tokens, at most."""
    proof: float
    """Chance that one audited answer proves it."""
    in_one: float
    """Chance of being proven within an epoch, at the fewest draws."""
    expected: float
    """Gain until a verdict, less what the verdict takes, in tokens."""


@cache
def rejected_within(
    epochs: int, share: float, sample: int = SAMPLE_SIZE, rate: int = MISMATCH_PER_MILLION, honest: int | None = None
) -> float:
    """Return the chance that the sum of `epochs` samples is beyond chance, if `honest` in a million of the other nonces
    differ: as many as the calibration allows for, `rate`, if not said."""
    drawn = epochs * sample
    if share >= 1.0:
        return 1.0
    limit = reject_from(drawn, rate, dict(zip(WINDOWS_EPOCHS, PARTS, strict=True))[epochs])
    found = detection_per_million(drawn, limit, round(share * MILLION), rate if honest is None else honest)
    return found / MILLION


def faking(share: float, honest: int = MISMATCH_PER_MILLION, taken_off: int = DIFFERING_COUNTS) -> Faking:
    """Return what it is worth to make up `share` of all nonces, of the others of which `honest` in a million differ.

    Each epoch it adds the share; what differs in the sample takes `taken_off` times as much off; a window of some
    epochs rejects one epoch's batch with the chance that it has by their end. Only the window that takes most is
    counted: the truth is worse.
    """
    within = {epochs: rejected_within(epochs, share, honest=honest) for epochs in WINDOWS_EPOCHS}
    lost = max(chance / epochs for epochs, chance in within.items())
    one, three, ten, thirty = within.values()
    return Faking(share, one, three, ten, thirty, share - taken_off * share * (1 - lost) - lost)


def run_draws(share: float, trials: int, batch: int = 20_000) -> float:
    """Return how many of `trials` batches are rejected when their samples are drawn as the network draws them.

    The made-up nonces are the last ones of a batch: a cheat cannot know which are drawn, so which they are is all one.
    """
    first_fake = batch - round(share * batch)
    limit = reject_from(SAMPLE_SIZE, MISMATCH_PER_MILLION)
    rejected = 0
    for trial in range(trials):
        seed = Hash32(trial.to_bytes(32))
        drawn = draw_sample(seed, ACCOUNT, NodeId("node-1"), batch, SAMPLE_SIZE)
        rejected += sum(nonce >= first_fake for nonce in drawn) >= limit
    return rejected / trials


def best_faking(steps: int = 20, *, honest: int = MISMATCH_PER_MILLION, taken_off: int = DIFFERING_COUNTS) -> Faking:
    """Return the share that pays best, of those up to a thousandth."""
    shares = (step / (1000 * steps) for step in range(1, steps + 1))
    return max((faking(share, honest, taken_off) for share in shares), key=lambda found: found.gain_per_epoch)


def answering(name: str, gain_per_epoch: float, proof: float) -> Answering:
    """Return what it is worth to answer wrongly all day, if an audited answer proves it with a chance of `proof`.

    The fewest answers that are drawn count, DRAWS_MIN an epoch; the gain runs on until the verdict, VERDICT_EPOCHS at
    most, and as long again as nobody finds out.
    """
    caught = 1.0 - (1.0 - proof) ** DRAWS_MIN
    if caught <= 0.0:
        return Answering(name, gain_per_epoch, proof, 0.0, float("inf"))
    epochs = 1.0 / caught + VERDICT_EPOCHS
    return Answering(name, gain_per_epoch, proof, caught, gain_per_epoch * epochs - FRAUD_COST)


def occasional(share: float, proof: float = 0.999) -> float:
    """Return what a first epoch is worth in which `share` of an engine's answers is wrong."""
    caught = 1.0 - (1.0 - share * proof) ** DRAWS_MIN
    return share * FEES * VERDICT_EPOCHS - caught * FRAUD_COST


def withholding(share: float) -> float:
    """Return what it is worth in an epoch to give `share` of all answers wrongly, and to hand none of these over.

    The answers' part of quality and of availability is lost, and half as much of the reward and of the requests.
    """
    lost_points = share * (QUALITY_TENTHS + AVAILABILITY_TENTHS) / 10
    return share * FEES - lost_points / 2 * (REWARD + FEES)


@dataclass(frozen=True, slots=True)
class Hiding:
    """Bundles that are hidden when the draw from their books is bad, by who answers wrongly in every epoch."""

    share: float
    """Of its answers that is wrong."""
    draws: tuple[int, int]
    """Of tokens, from a book of one epoch and of two."""
    clean: tuple[float, float]
    """Chance that neither of these falls on a wrong answer."""
    hidden: float
    """Of all epochs, those in which it hides its bundle."""
    expected: float
    """What an epoch is worth to it in the long run, in tokens."""


def book_draws(epochs: int, answers: int) -> int:
    """Return how many tokens are drawn from a book of so many epochs with `answers` of ANSWER_TOKENS tokens each."""
    count = epochs * answers
    return token_draws_of(ReceiptBook(count, count * ANSWER_TOKENS, Hash32(bytes(32)), Cid("")))


def hiding(share: float, answers: int = BUSY_ANSWERS, proof: float = 0.999) -> Hiding:
    """Return what it is worth to answer `share` of all requests wrongly, and to hide each bundle whose draw is bad.

    Who hides loses the part of participation. From the second time running payers prove what it owes: with no answer
    audited, that is all of quality and of availability for which audits stand. Books have all that was hidden, so the
    draw from one of three epochs is no better than that of two. It is never convicted: it shows no bad draw.
    """
    fees = answers * ANSWER_TOKENS * UNIT_PRICE
    once = PARTICIPATION_TENTHS / 10 / 2 * (REWARD + fees)
    again = once + (QUALITY_TENTHS + AVAILABILITY_TENTHS) / 10 / 2 * (REWARD + fees)
    draws = book_draws(1, answers), book_draws(2, answers)
    first, second = ((1.0 - share * proof) ** number for number in draws)
    third = (1.0 - share * proof) ** book_draws(3, answers)
    # How often, beside each epoch after a bundle that was shown, there is one after a hidden one, and after several.
    after_one = 1.0 - first
    after_more = after_one * (1.0 - second) / third if third > 0.0 else float("inf")
    if after_more == float("inf"):
        return Hiding(share, draws, (first, second), 1.0, share * fees - again)
    hidden_again = after_one * (1.0 - second) + after_more * (1.0 - third)
    epochs = 1.0 + after_one + after_more
    lost = (after_one * once + hidden_again * again) / epochs
    return Hiding(share, draws, (first, second), (after_one + hidden_again) / epochs, share * fees - lost)


def hiding_one_epoch(share: float, answers: int = BUSY_ANSWERS, proof: float = 0.999) -> float:
    """Return what it is worth to answer `share` of one epoch's requests wrongly, then none, and to hide all bundles
    until a draw falls on none of these: the book grows, so the part that is wrong gets smaller.

    What is not booked for BOOKS_REMEMBERED_EPOCHS is due no more, and need not be hidden any longer.
    """
    fees = answers * ANSWER_TOKENS * UNIT_PRICE
    once = PARTICIPATION_TENTHS / 10 / 2 * (REWARD + fees)
    again = once + (QUALITY_TENTHS + AVAILABILITY_TENTHS) / 10 / 2 * (REWARD + fees)
    worth, hidden = share * fees, 1.0
    for epochs in range(1, BOOKS_REMEMBERED_EPOCHS + 1):
        hidden *= 1.0 - (1.0 - share / epochs * proof) ** book_draws(epochs, answers)
        worth -= hidden * (once if epochs == 1 else again)
    return worth


def held_by_an_honest_member(sitting: float) -> float:
    """Return the chance that a proof which a payer hands to members gets to one that votes on it, if `sitting` of the
    weight does not."""
    return 1.0 - sitting**HOLDERS


def points_for_audits(fees: float) -> float:
    """Return what an epoch costs of whose answers nothing is known to be good: all points that audits stand for."""
    return (QUALITY_TENTHS + AVAILABILITY_TENTHS) / 10 / 2 * (REWARD + fees)


def hiding_from_the_weightless(sitting: float = 1 / 3) -> float:
    """Return what an epoch is worth to who answers all requests wrongly and hides all its bundles, if none of its
    payers has weight, and one of them, with a single receipt, runs a daemon that watches.

    As nothing of it is audited, that one proof takes all points that audits stand for, if it is voted on.
    """
    once = PARTICIPATION_TENTHS / 10 / 2 * (REWARD + FEES)
    return FEES - once - held_by_an_honest_member(sitting) * points_for_audits(FEES)


def leaving_out(proofs: int, sitting: float = 1 / 3) -> float:
    """Return what an epoch is worth to who answers all requests wrongly, leaves them out of its book, and fills that up
    with true answers of its own until it has the most draws, if payers have `proofs` against it together.

    A bundle has room for 16, so that many proofs take as many bundles: payers hand each to HOLDERS members.
    """
    voted = held_by_an_honest_member(sitting) * proofs
    return FEES - voted / (voted + DRAWS_MAX - ROW_DRAWS) * points_for_audits(FEES)


@dataclass(frozen=True, slots=True)
class Padding:
    """A book that its executor fills with true answers to its own questions."""

    answers: int
    """Those that it adds; the text may be the same in all."""
    draws: int
    """Of tokens, from the book."""
    of_members: float
    """How many of these fall on what payers with weight signed for, on average."""
    of_others: float
    """How many fall on what payers without weight signed for, if all payers are such."""


def padding(answers: int, tokens: int, *, sold: int = 1_800) -> Padding:
    """Return what is drawn of `sold` answers of ANSWER_TOKENS tokens beside `answers` of `tokens` that it made up."""
    total = sold * ANSWER_TOKENS + answers * tokens
    draws = token_draws_of(ReceiptBook(sold + answers, total, Hash32(bytes(32)), Cid("")))
    share = sold * ANSWER_TOKENS / total
    of_payers = draws // 2
    return Padding(answers, draws, of_payers + (draws - of_payers) * share, draws * share)


def payer_draws_left(unanswered: float) -> float:
    """Return what is left of a member's draws for its answers of ANSWER_TOKENS tokens if its executor books, in all the
    books that may have them, made-up answers to a share of requests that nobody has a receipt of."""
    books = ANSWER_EPOCHS_MAX + 2  # of the epoch asked in, the last it may be answered in, and the one after
    return ANSWER_TOKENS / (ANSWER_TOKENS + unanswered * books * PAYER_TOKENS_MAX)


def lazy_validator() -> Iterator[tuple[str, float]]:
    """Yield what a member saves that votes with the crowd or not at all, and what it loses."""
    generated = 300 * 3600  # nonces a second, in an hour of GENERATE
    saved = (MEMBERS - 1) * SAMPLE_SIZE / generated
    yield "computing saved, of an epoch's mining", saved
    yield "reward lost with the score's part of participation", 0.1 / 2


@click.command(help=__doc__)
def main() -> None:
    """Command line."""
    click.echo(f"Nonces made up, {SAMPLE_SIZE} sampled, p0 = {MISMATCH_PER_MILLION} in a million:")
    print_table(
        ("MADE UP", "REJECTED IN 1", "IN 3", "IN 10", "IN 30", "GAIN PER EPOCH, OF A REWARD"),
        [
            (
                f"{f.share:.2%}",
                *(f"{chance:.2%}" for chance in (f.in_one, f.in_three, f.in_ten, f.in_thirty)),
                f"{f.gain_per_epoch:+.4%}",
            )
            for f in map(faking, FAKED_SHARES)
        ],
        empty="",
    )
    click.echo("What pays best, of a reward in each epoch, where so many of a million honest nonces differ:")
    print_table(
        ("DIFFER", *(f"TAKEN OFF {times} TIMES" for times in TAKEN_OFF)),
        [
            (
                str(honest),
                *(
                    f"{found.share:.3%}: {found.gain_per_epoch:+.4%}"
                    for found in (best_faking(honest=honest, taken_off=times) for times in TAKEN_OFF)
                ),
            )
            for honest in (0, MISMATCH_PER_MILLION)
        ],
        empty="",
    )
    runs = ", ".join(f"{share:.0%}: {run_draws(share, RUNS):.1%}" for share in (0.01, 0.02, 0.05, 0.1))
    click.echo(f"Rejected in one epoch, {RUNS} real draws each: {runs}")
    click.echo(f"\nAll answers wrong, an engine that takes {FEES:.1f} tokens an epoch, fraud costs {FRAUD_COST:.0f}:")
    print_table(
        ("PROVEN BY ONE AUDIT", "WITHIN AN EPOCH", "EXPECTED, IN TOKENS"),
        [
            (f"{a.proof:.1%}", f"{a.in_one:.2%}", f"{a.expected:+.0f}")
            for a in (answering("", FEES, proof) for proof in (0.999, 0.5, 0.1, 0.01))
        ],
        empty="",
    )
    click.echo("\nSome answers wrong, in one epoch:")
    print_table(
        ("WRONG", "EXPECTED, IN TOKENS"),
        [(f"{share:.1%}", f"{occasional(share):+.3f}") for share in (0.001, 0.01, 0.1, 1.0)],
        empty="",
    )
    click.echo(f"\nAll answers wrong and none handed over: {withholding(1.0):+.1f} tokens an epoch")
    click.echo("\nA part of all answers wrong, and each bundle hidden whose draw is bad:")
    print_table(
        (
            "ANSWERS A DAY",
            "WRONG",
            "DRAWS OF ONE EPOCH, TWO",
            "NONE BAD OF ONE, TWO",
            "HIDDEN",
            "AN EPOCH",
            "ONE EPOCH ONLY",
        ),
        [
            (
                f"{answers:,}",
                f"{h.share:.2%}",
                f"{h.draws[0]}, {h.draws[1]}",
                f"{h.clean[0]:.1%}, {h.clean[1]:.1%}",
                f"{h.hidden:.1%}",
                f"{h.expected:+.3f}",
                f"{hiding_one_epoch(h.share, answers):+.3f}",
            )
            for answers in HIDERS
            for h in (hiding(share, answers) for share in HIDDEN_SHARES)
        ],
        empty="",
    )
    click.echo("\nA book of 1,800 answers, filled up with others of 32,000 tokens:")
    print_table(
        ("MADE UP", "DRAWS", "OF WHAT MEMBERS PAID FOR", "OF WHAT OTHERS PAID FOR"),
        [
            (f"{p.answers:,}", str(p.draws), f"{p.of_members:.2f}", f"{p.of_others:.2f}")
            for p in (padding(answers, PADDING_TOKENS) for answers in PADDINGS)
        ],
        empty="",
    )
    click.echo("\nA member's draws, if made-up answers stand for requests that were never answered:")
    print_table(
        ("OF ALL REQUESTS", "DRAWS LEFT"),
        [(f"{share:.0%}", f"{payer_draws_left(share):.0%}") for share in UNANSWERED],
        empty="",
    )
    click.echo("\nAll answers wrong, no book, and no payer with weight, one of whom watches:")
    print_table(
        ("WEIGHT THAT SITS ON PROOFS", "A PROOF IS VOTED ON", "AN EPOCH"),
        [
            (f"{share:.0%}", f"{held_by_an_honest_member(share):.1%}", f"{hiding_from_the_weightless(share):+.1f}")
            for share in SITTING_SHARES
        ],
        empty="",
    )
    click.echo("\nAll answers wrong and left out of a book that is filled up with true ones:")
    print_table(
        ("PROOFS OF ITS PAYERS", "AN EPOCH"),
        [(str(proofs), f"{leaving_out(proofs):+.1f}") for proofs in LEFT_OUT],
        empty="",
    )
    for what, share in lazy_validator():
        click.echo(f"{what}: {share:.1%}")
    click.echo(f"auditors of an answer, at most: {SEATS}")


if __name__ == "__main__":
    main()
