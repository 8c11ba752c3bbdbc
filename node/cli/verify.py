"""`quern verify`: checks a receipt line by line, and says what could not be checked."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click

from node.cli.calls import call_daemon
from node.cli.options import CommandFailed, Target, target_options
from node.cli.render import print_table
from node.control.receipt_views import ChecksView, ReceiptFileView
from node.protocol.codec import SchemaError
from node.protocol.dossiers import FILE_BYTES_MAX, Dossier, dossiers_from_json, dossiers_to_json
from node.protocol.verification import Check, Outcome, unchecked, verify_offline

ENGINE_SECONDS_MAX = 600
"""A prefill of a long answer on a busy CPU takes minutes."""
CHAIN_LINES = ("executor", "model", "price", "channel")
MARKS = {Outcome.HOLDS: "ok", Outcome.FAILS: "FAILS", Outcome.UNCHECKED: "–"}


@click.command()
@click.argument("receipt")
@click.option("--engine", "engine", metavar="NODE", help="Check the tokens too, with this ML node of the daemon.")
@click.option("--offline", is_flag=True, help="Ask no daemon: check hashes and signatures only. Needs a file.")
@click.option("--strict", is_flag=True, help="What could not be checked counts as a failure.")
@target_options
def verify(target: Target, receipt: str, engine: str | None, offline: bool, strict: bool) -> None:
    """Check a receipt, line by line.

    RECEIPT is a file of `quern receipts export`, or the beginning of a request's id.

    Hashes, both signatures, the seed and the voucher are checked here, by themselves. A running daemon adds what its
    chain says: who took part, the price of the epoch, whether the voucher can be redeemed; and with --engine whether
    the tokens are those that the model gives.

    \b
    Examples:
      quern verify receipts.json
      quern verify 4f1a09c2 --engine gpu0
      quern verify receipts.json --offline --json

    Exit code: 0 nothing fails, 1 something fails (with --strict: or could not be checked), 2 wrong usage.
    """
    if offline and engine is not None:
        raise click.UsageError("--engine needs a daemon, so it does not go with --offline")
    dossiers = _read(target, receipt, offline=offline)
    results = [
        (dossier, [*verify_offline(dossier), *_online(target, dossier, engine, offline)]) for dossier in dossiers
    ]
    if target.as_json:
        click.echo(json.dumps({"receipts": [_as_json(dossier, checks) for dossier, checks in results]}, indent=2))
    else:
        for dossier, checks in results:
            _print(dossier, checks)
    outcomes = [check.outcome for _, checks in results for check in checks]
    if Outcome.FAILS in outcomes or (strict and Outcome.UNCHECKED in outcomes):
        raise SystemExit(1)


def _read(target: Target, receipt: str, *, offline: bool) -> tuple[Dossier, ...]:
    file = Path(receipt)
    if not file.is_file():
        if offline or not _looks_like_an_id(receipt):
            raise CommandFailed(
                f"there is no file {receipt}", "Name a file of `quern receipts export`, or a request's id (hex)."
            )
        view = call_daemon(target, "receipt", ReceiptFileView, {"request_id": receipt})
        return dossiers_from_json(view.document)
    try:
        if file.stat().st_size > FILE_BYTES_MAX:
            raise CommandFailed(f"{receipt} is larger than any file of receipts")
        return dossiers_from_json(file.read_text(encoding="utf-8"))
    except (SchemaError, UnicodeDecodeError) as error:
        raise CommandFailed(f"{receipt} is no file of receipts: {error}", "It may be cut off or altered.") from error
    except OSError as error:
        raise CommandFailed(f"{receipt} cannot be read: {error.strerror}") from error


def _online(target: Target, dossier: Dossier, engine: str | None, offline: bool) -> Iterator[Check]:
    """What only a daemon can check; without one, that it was not checked."""
    reason = "no daemon was asked"
    found: list[Check] | None = None
    if not offline:
        try:
            found = _ask(target, dossier, engine)
        except CommandFailed as error:
            if engine is not None:
                raise
            reason = f"no daemon could be asked: {error.message}"
    yield from (unchecked(what, reason) for what in CHAIN_LINES) if found is None else found
    if engine is None:
        yield unchecked("tokens", "name an ML node of a daemon with --engine")


def _ask(target: Target, dossier: Dossier, engine: str | None) -> list[Check]:
    answer = None if engine is None or dossier.answer is None else replace(dossier.answer, text="")
    document = dossiers_to_json((replace(dossier, answer=answer),))
    view = call_daemon(
        target,
        "receipt_verify",
        ChecksView,
        {"document": document, "engine": engine},
        deadline_seconds=ENGINE_SECONDS_MAX,
    )
    return [Check(check.what, Outcome(check.outcome), check.detail) for check in view.checks]


def _looks_like_an_id(text: str) -> bool:
    return 8 <= len(text) <= 64 and all(character in "0123456789abcdef" for character in text)


def _print(dossier: Dossier, checks: list[Check]) -> None:
    receipt = dossier.signed.receipt
    click.echo(f"request {receipt.request_id.hex()}, executor {receipt.executor}")
    print_table(
        ["", "checked", "found"], [[MARKS[check.outcome], check.what, check.detail] for check in checks], empty=""
    )
    click.echo(_verdict(checks) + "\n")


def _verdict(checks: list[Check]) -> str:
    failed = [check.what for check in checks if check.outcome is Outcome.FAILS]
    open_ones = [check.what for check in checks if check.outcome is Outcome.UNCHECKED]
    if failed:
        return f"This receipt does not hold: {', '.join(failed)}."
    return f"What was checked holds; not checked: {', '.join(open_ones)}." if open_ones else "This receipt holds."


def _as_json(dossier: Dossier, checks: list[Check]) -> dict[str, object]:
    return {
        "request_id": dossier.signed.receipt.request_id.hex(),
        "executor": dossier.signed.receipt.executor,
        "holds": all(check.outcome is not Outcome.FAILS for check in checks),
        "checks": [{"what": c.what, "outcome": c.outcome.value, "detail": c.detail} for c in checks],
    }
