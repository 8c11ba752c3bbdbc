"""Commands about receipts: what both sides signed of each answer, listed, shown and exported."""

import json
from pathlib import Path

import click

from node.amounts import amount_to_tokens
from node.cli.calls import call_daemon
from node.cli.options import CommandFailed, Target, target_options
from node.cli.render import print_facts, print_json, print_table
from node.control.receipt_views import ReceiptFileView, ReceiptsView, ReceiptView
from node.dates import date_in_words
from node.private_files import PrivateFileError, create_private_file
from node.protocol.dossiers import Dossier, dossiers_from_json, dossiers_to_json

ID_CHARACTERS = 12
"""Of a request's id in a table: enough to name it."""
EXPORTED_MAX = 1000


@click.group()
def receipts() -> None:
    """Receipts of answers given and got.

    \b
    Examples:
      quern receipts list
      quern receipts show 4f1a09c2
      quern receipts export receipts.json
      quern verify receipts.json
    """


@receipts.command("list")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many of the newest.")
@target_options
def list_receipts(target: Target, limit: int) -> None:
    """List the newest receipts.

    \b
    Examples:
      quern receipts list
      quern receipts list --limit 1000 --json | jq '[.receipts[].price | tonumber] | add'
    """
    view = call_daemon(target, "receipts", ReceiptsView, {"limit": limit})
    if target.as_json:
        print_json(view)
        return
    print_table(
        ["request", "when", "model", "executor", "tokens", "price", "signed by", "kept"],
        [
            [
                receipt.request_id[:ID_CHARACTERS],
                date_in_words(receipt.at),
                receipt.model_id,
                receipt.executor,
                f"{receipt.prompt_tokens} + {receipt.output_tokens}",
                amount_to_tokens(int(receipt.price)),
                _signed_by(receipt),
                "answer" if receipt.has_answer else "–",
            ]
            for receipt in view.receipts
        ],
        empty="There are no receipts yet.",
    )


@receipts.command()
@click.argument("request_id")
@target_options
def show(target: Target, request_id: str) -> None:
    """Show the receipts of one request, named by the beginning of its id.

    An answer whose executor failed has several: one of each that gave a part. The text is shown if it is kept
    (answers_kept_max of [payments]).

    \b
    Examples:
      quern receipts show 4f1a09c2
      quern receipts show 4f1a09c2 --json > receipt.json
    """
    document = call_daemon(target, "receipt", ReceiptFileView, {"request_id": request_id}).document
    if target.as_json:
        click.echo(document)
        return
    for dossier in dossiers_from_json(document):
        print_facts(_facts(dossier))


@receipts.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--request", "request_ids", multiple=True, help="Only this request's; may be given several times.")
@click.option("--without-answers", is_flag=True, help="Leave out prompts and answers: hashes and signatures only.")
@target_options
def export(target: Target, file: Path, request_ids: tuple[str, ...], without_answers: bool) -> None:
    """Write receipts to FILE, with what anybody needs to check them.

    The file holds prompts and answers that are kept, unless you leave them out; it is readable by you alone.

    \b
    Examples:
      quern receipts export receipts.json
      quern receipts export one.json --request 4f1a09c2 --without-answers
    """
    wanted = request_ids or _newest_ids(target)
    if not wanted:
        raise CommandFailed("there are no receipts yet")
    dossiers: list[Dossier] = []
    for request_id in wanted:
        params = {"request_id": request_id, "with_answer": not without_answers}
        dossiers += dossiers_from_json(call_daemon(target, "receipt", ReceiptFileView, params).document)
    try:
        create_private_file(file, dossiers_to_json(tuple(dossiers)).encode())
    except FileExistsError as error:
        raise CommandFailed(f"{file} exists already; nothing was written", "Name another file.") from error
    except PrivateFileError as error:
        raise CommandFailed(str(error)) from error
    if target.as_json:
        click.echo(json.dumps({"file": str(file), "receipts": len(dossiers)}))
    else:
        click.echo(f"{len(dossiers)} receipts are in {file}. Check them with: quern verify {file}")


def _newest_ids(target: Target) -> tuple[str, ...]:
    view = call_daemon(target, "receipts", ReceiptsView, {"limit": EXPORTED_MAX})
    return tuple(dict.fromkeys(receipt.request_id for receipt in view.receipts))


def _signed_by(receipt: ReceiptView) -> str:
    return "both" if receipt.is_countersigned else "executor only"


def _facts(dossier: Dossier) -> list[tuple[str, str]]:
    receipt, answer = dossier.signed.receipt, dossier.answer
    facts = [
        ("request", receipt.request_id.hex()),
        ("at", date_in_words(receipt.at)),
        ("epoch", str(receipt.epoch)),
        ("model", f"{receipt.model_id} ({receipt.model_cid})"),
        ("payer", receipt.payer),
        ("executor", f"{receipt.executor}, node {receipt.node_id or 'not named'}"),
        ("tokens", f"{receipt.prompt_tokens} read, {receipt.output_tokens} written"),
        *([("vectors", str(receipt.vectors))] if receipt.vectors else []),
        ("price", amount_to_tokens(receipt.price)),
        ("signed by", "both" if dossier.signed.payer_signature else "executor only"),
        ("tokens can be checked", "yes" if receipt.is_verifiable else "no: drawn outside the rule"),
        ("private", "yes: not published, and its answer is stored nowhere" if receipt.is_private else "no"),
        ("seed", "given by the user" if receipt.seeded_by_user else "drawn by both sides"),
    ]
    if answer is not None:
        facts.append(("answer", answer.text))
    return [*facts, ("", "")]
