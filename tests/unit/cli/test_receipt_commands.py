"""`quern receipts` and `quern verify`: files that hold or do not, with and without a daemon; exit codes say which."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from node.cli.main import quern
from node.control.jsonrpc import ErrorCode, RpcError
from node.control.receipt_methods import ReceiptParams, ReceiptsParams, VerifyParams, receipt_method_table
from node.control.receipt_views import ChecksView, CheckView, ReceiptFileView, ReceiptsView, ReceiptView
from node.protocol.dossiers import Dossier, dossiers_from_json, dossiers_to_json
from tests.unit.control.serving import serving
from tests.unit.protocol.test_verification import DOSSIER

CHAIN_CHECKS = ("network", "executor", "model", "price", "channel")


class CannedReceipts:
    """One receipt, and a chain that finds `fault` wrong."""

    def __init__(self) -> None:
        self.fault = ""
        self.verified: list[VerifyParams] = []

    async def receipts(self, params: ReceiptsParams) -> ReceiptsView:
        del params
        receipt = DOSSIER.signed.receipt
        view = ReceiptView(
            request_id=receipt.request_id.hex(),
            at=receipt.at,
            epoch=receipt.epoch,
            model_id=receipt.model_id,
            payer=receipt.payer,
            executor=receipt.executor,
            node_id=receipt.node_id,
            prompt_tokens=3,
            output_tokens=4,
            price="98",
            is_countersigned=True,
            is_verifiable=True,
            has_answer=True,
        )
        return ReceiptsView(receipts=[view])

    async def receipt(self, params: ReceiptParams) -> ReceiptFileView:
        if not DOSSIER.signed.receipt.request_id.hex().startswith(params.request_id):
            raise RpcError(ErrorCode.REFUSED, f"no receipt begins with {params.request_id}", "See the list.")
        found = DOSSIER if params.with_answer else replace(DOSSIER, answer=None)
        return ReceiptFileView(document=dossiers_to_json((found,)))

    async def verify(self, params: VerifyParams) -> ChecksView:
        self.verified.append(params)
        names = CHAIN_CHECKS if params.engine is None else (*CHAIN_CHECKS, "tokens")
        checks = [
            CheckView(what=name, outcome="fails" if name == self.fault else "holds", detail="found") for name in names
        ]
        return ChecksView(checks=checks)


OPERATIONS = CannedReceipts()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("d") / "control.sock"
    with serving(path, receipt_method_table(OPERATIONS)):
        yield path


def run(*arguments: str, socket: Path) -> Result:
    return CliRunner().invoke(quern, [*arguments, "--socket", str(socket)])


def written(directory: Path, *dossiers: Dossier) -> str:
    path = directory / "receipts.json"
    path.write_text(dossiers_to_json(dossiers))
    return str(path)


def test_receipts_are_listed_and_shown(daemon: Path) -> None:
    listed = run("receipts", "list", socket=daemon)
    assert listed.exit_code == 0
    assert "070707070707" in listed.output
    assert "both" in listed.output
    shown = run("receipts", "show", "07070707", socket=daemon)
    assert "a quern grinds" in shown.output
    assert "drawn by both sides" in shown.output
    assert json.loads(run("receipts", "list", "--json", socket=daemon).output)["receipts"][0]["price"] == "98"


def test_an_exported_file_is_private_whole_and_never_overwrites(daemon: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    assert run("receipts", "export", str(file), socket=daemon).exit_code == 0
    assert file.stat().st_mode & 0o777 == 0o600
    assert dossiers_from_json(file.read_text()) == (DOSSIER,)
    again = run("receipts", "export", str(file), socket=daemon)
    assert again.exit_code == 1
    assert "exists already" in again.output
    bare = tmp_path / "bare.json"
    options = ("--without-answers", "--request", "07070707")
    assert run("receipts", "export", str(bare), *options, socket=daemon).exit_code == 0
    assert dossiers_from_json(bare.read_text())[0].answer is None


def test_a_file_holds_offline_as_far_as_it_goes(tmp_path: Path) -> None:
    file = written(tmp_path, DOSSIER)
    result = run("verify", file, "--offline", socket=tmp_path / "nobody.sock")
    assert result.exit_code == 0
    assert "not checked: executor, model, price, channel, tokens" in result.output.replace("\n", " ")
    strict = run("verify", file, "--offline", "--strict", socket=tmp_path / "nobody.sock")
    assert strict.exit_code == 1


def test_without_a_daemon_the_file_is_checked_all_the_same(tmp_path: Path) -> None:
    result = run("verify", written(tmp_path, DOSSIER), socket=tmp_path / "nobody.sock")
    assert result.exit_code == 0
    assert "no daemon could be asked" in result.output


def test_a_changed_file_fails_with_the_line_that_found_it(tmp_path: Path) -> None:
    assert DOSSIER.answer is not None
    forged = replace(DOSSIER, answer=replace(DOSSIER.answer, output_ids=(4, 5, 6, 7)))
    file = written(tmp_path, DOSSIER, forged)
    result = run("verify", file, "--offline", "--json", socket=tmp_path / "nobody.sock")
    assert result.exit_code == 1
    first, second = json.loads(result.output)["receipts"]
    assert (first["holds"], second["holds"]) == (True, False)
    assert [check["what"] for check in second["checks"] if check["outcome"] == "fails"] == ["output"]


def test_a_daemon_adds_what_the_chain_says_and_gets_no_prompt_it_does_not_need(daemon: Path, tmp_path: Path) -> None:
    OPERATIONS.verified.clear()
    OPERATIONS.fault = ""
    file = written(tmp_path, DOSSIER)
    assert run("verify", file, socket=daemon).exit_code == 0
    assert run("verify", "07070707", "--engine", "gpu0", "--strict", socket=daemon).exit_code == 0
    without, with_engine = (dossiers_from_json(params.document)[0] for params in OPERATIONS.verified)
    assert without.answer is None
    assert with_engine.answer is not None
    assert with_engine.answer.text == ""
    OPERATIONS.fault = "price"
    failed = run("verify", file, socket=daemon)
    assert failed.exit_code == 1
    assert "does not hold: price" in failed.output


@pytest.mark.parametrize("text", ["", "{}", "\x00", '{"format": "quern-receipts/1", "receipts": [{}]}'])
def test_a_malformed_file_is_an_error_and_not_a_verdict(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.json"
    file.write_text(text)
    result = run("verify", str(file), "--offline", socket=tmp_path / "nobody.sock")
    assert result.exit_code == 1
    assert "no file of receipts" in result.output


def test_what_is_neither_file_nor_id_is_named(tmp_path: Path, daemon: Path) -> None:
    missing = run("verify", "no-such-file.json", socket=daemon)
    assert (missing.exit_code, "there is no file" in missing.output) == (1, True)
    unknown = run("verify", "abcdef0123", socket=daemon)
    assert (unknown.exit_code, "no receipt begins" in unknown.output) == (1, True)
    usage = run("verify", "x", "--offline", "--engine", "gpu0", socket=tmp_path / "nobody.sock")
    assert usage.exit_code == 2
