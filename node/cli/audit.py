"""`quern audit`: what was drawn for audit, what this node found, and what the result made of all votes."""

import click

from node.cli.calls import call_daemon
from node.cli.options import CommandFailed, Target, target_options
from node.cli.render import print_json, print_table
from node.control.audit_views import AuditsView, AuditVoteView, OmissionView
from node.control.challenge_methods import ChallengeView

DIGEST_CHARACTERS = 12
EPOCH_DIGITS_MAX = 7
"""Longer numbers are the beginning of a receipt's digest or of a request's id: these need eight characters at least."""

BEGINNING = "A receipt is named by at least eight hex digits of its digest or of its request's id."

REASONS = {
    "margin": "its tokens fall far short of the rule's choice",
    "tokens": "too many tokens are not the rule's choice",
    "vectors": "its vectors are not the model's",
    "logprobs": "the log-probabilities it claimed are not the model's",
    "too-likely": "its tokens are likelier than draws at its temperature",
    "too-unlikely": "its tokens are less likely than draws at its temperature",
    "withheld": "not handed over",
    "omitted-receipt": "a payer proved that it left a receipt out of its book",
    "no-book": "it answered, and twice running none of its votes and no receipt book of it were counted",
    "malformed": "what was handed over cannot be read",
    "not-the-book": "the receipt book is not what was committed to",
    "not-the-receipt": "another receipt was handed over",
    "not-the-length": "the book says another length",
    "not-the-payer": "the book names a payer that did not sign",
    "not-the-tokens": "other tokens than the receipt commits to",
    "not-the-vectors": "other vectors than the receipt commits to",
    "not-the-draw": "other parameters than the receipt commits to",
    "not-the-seed": "the seed is not the one that both sides drew",
    "not-the-claims": "log-probabilities of other tokens",
    "not-by-rule": "its engine does not draw by the rule",
    "outside-rule": "penalties, biases or a format: there is no rule for them",
    "private": "a private request",
    "no-tokens": "it ended before its first token: there is nothing to judge",
    "drawn-again": "drawn more than once, and judged under another number",
    "not-drawn": "accused of, and no draw fell on it: somebody chose it, so it is not judged",
    "no-room": "its prompt fills the context: no engine reads more",
    "other-version": "of a model or a version that the group does not have, or of before a change of how it is run",
    "no-model": "this node does not serve the model",
    "no-time": "this node has not got to it",
    "engine-failed": "this node's engine failed",
    "accused": "accused: the whole group judges it again",
    "narrowly-proven": "not the model's, as members with less than a third of all weight found: unpaid, and no fraud",
    "unconfirmed": "accused, and not settled yet",
    "not-audited": "nothing of it was audited",
}
"""What the short codes of votes and outcomes mean."""


@click.command()
@click.argument("which", required=False, metavar="[EPOCH|RECEIPT]")
@click.option("--challenge", metavar="RECEIPT", help="Have an answer judged that this gateway paid for.")
@click.option(
    "--consent",
    is_flag=True,
    help="Agree that a private prompt and its answer are shown to the judges, and on disk for so long.",
)
@target_options
def audit(target: Target, which: str | None, challenge: str | None, consent: bool) -> None:
    """Show audits, or have an answer judged.

    Without an argument, those of the present epoch. RECEIPT is the beginning of a receipt's digest or of its request's
    id, of eight characters or more: then only audits of that answer, the last ones.

    Answers are drawn from the receipt books of the newest result, and judged by up to five members each. What they
    find can only accuse, which costs nothing; accused answers are judged again by all with the model in the next epoch.
    Evidence is in bits, and adds up for an executor with a model: 26 accuse. That honest answers come to so many by bad
    luck is expected less than once in a million audits.

    If executors left receipts of answers that this node paid for out of their books, these are shown too: the
    proofs go into its own votes, if it has weight, and into those of members that took them from it.

    With --challenge, this node hands over an answer that it paid another for, and its next votes challenge it: in the
    epoch after, every member with the model judges it, and is shown the tokens of prompt and answer. If an engine of
    this node has the model, it looks first, and what it does not find proven is not challenged. An answer older than 16
    epochs cannot be challenged. A private answer takes your consent, and has to be in memory still, where it stays for
    an hour unless private_answers_kept_seconds of [payments] says otherwise.

    \b
    Examples:
      quern audit
      quern audit 41
      quern audit 4f1a09c2 --json
      quern audit --challenge 4f1a09c2
      quern audit --challenge 4f1a09c2 --consent
    """
    if challenge is not None or consent:
        _challenge(target, which, challenge, consent=consent)
        return
    view = call_daemon(target, "audits", AuditsView, _params(which))
    if target.as_json:
        print_json(view)
        return
    if view.books_of is None:
        click.echo(f"Epoch {view.epoch}: there is no result before it, so nothing is audited.")
        return
    click.echo(f"Epoch {view.epoch}, answers of epoch {view.books_of}")
    print_table(
        ["executor", "answers", "tokens", "drawn"],
        [[book.executor, str(book.answers), str(book.output_tokens), str(book.draws)] for book in view.books],
        empty="Nobody committed to receipts in that epoch.",
    )
    click.echo("\nThis node's audits")
    print_table(
        ["executor", "receipt", "tokens", "off", "margin", "distance", "z", "bits", "found"],
        [_row(vote) for vote in view.votes],
        empty="This node was drawn for none, or has not begun.",
    )
    if view.omissions:
        click.echo("\nReceipts that executors did not book as they must, proven by their payers' copies")
        print_table(
            ["executor", "receipt", "what is wrong", "found by", "the proof"],
            [_omission_row(omission) for omission in view.omissions],
            empty="",
        )
    click.echo("\nThe result")
    if view.outcomes is None:
        click.echo("There is none of this epoch yet, or its content is not here any more.")
        return
    print_table(
        ["executor", "model", "fate", "answers", "withheld", "bits", "why"],
        [
            [
                outcome.executor,
                outcome.model_id or "–",
                outcome.fate,
                str(outcome.answers),
                str(outcome.withheld),
                f"{outcome.evidence_bits:.1f}",
                _in_words(outcome.reason),
            ]
            for outcome in view.outcomes
        ],
        empty="Nobody was audited.",
    )


def _challenge(target: Target, which: str | None, challenge: str | None, *, consent: bool) -> None:
    if challenge is None or which is not None:
        raise CommandFailed(
            "an answer is challenged by itself",
            "Write: quern audit --challenge RECEIPT, with --consent if it is private.",
        )
    if not _is_beginning(challenge):
        raise CommandFailed(f"{challenge[:80]!r} is no receipt", BEGINNING)
    view = call_daemon(target, "challenge", ChallengeView, {"receipt": challenge, "consent": consent})
    if target.as_json:
        print_json(view)
        return
    found = "This node's engine finds it proven not to be the model's." if view.is_checked else "Nobody has looked yet."
    click.echo(f"{view.receipt[:DIGEST_CHARACTERS]}: an answer of {view.model_id} by {view.executor}. {found}")
    click.echo(
        f"It is challenged in this node's next votes ({view.waiting} wait before it, four at a time), and judged in "
        "the epoch after them by every member with the model, who are shown its tokens."
    )
    click.echo("What becomes of it is in `quern audit` then.")


def _is_beginning(text: str) -> bool:
    return 8 <= len(text) <= 64 and all(character in "0123456789abcdef" for character in text)


def _params(which: str | None) -> dict[str, object]:
    if which is None:
        return {}
    if which.isascii() and which.isdigit() and len(which) <= EPOCH_DIGITS_MAX:
        return {"epoch": int(which)}
    if _is_beginning(which):
        return {"receipt": which}
    raise CommandFailed(
        f"{which[:80]!r} is neither an epoch nor a receipt",
        f"Name an epoch's number, or a receipt. {BEGINNING}",
    )


def _row(vote: AuditVoteView) -> list[str]:
    return [
        vote.executor,
        vote.receipt[:DIGEST_CHARACTERS] or "–",
        str(vote.tokens),
        str(vote.mismatches),
        f"{vote.mean_margin:.4f}",
        "–" if vote.mean_distance is None else f"{vote.mean_distance:.4f}",
        "–" if vote.surprise_z is None else f"{vote.surprise_z:+.1f}",
        f"{vote.evidence_bits:.1f}",
        _in_words(vote.reason) or "nothing wrong",
    ]


def _omission_row(omission: OmissionView) -> list[str]:
    where = f"handed to {omission.handed_to} members" if omission.handed_to else "here"
    return [
        omission.executor,
        omission.receipt[:DIGEST_CHARACTERS],
        "not in its book, or otherwise than it must" if omission.has_book else "twice running it has no book",
        "this node" if omission.is_own else "another payer",
        where,
    ]


def _in_words(reason: str) -> str:
    return REASONS.get(reason, reason)
