"""`quern audit`: what was drawn, found and decided, in words; wrong arguments say what would be right."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from node.cli.audit import REASONS
from node.cli.main import quern
from node.control.audit_methods import AuditsParams, audit_method_table
from node.control.audit_views import AuditedBookView, AuditOutcomeView, AuditsView, AuditVoteView, OmissionView
from node.control.challenge_methods import ChallengeParams, ChallengeView, challenge_method_table
from node.control.jsonrpc import ErrorCode, RpcError
from node.protocol.appeals import NARROWLY_PROVEN
from node.protocol.audit_majorities import EXCUSED, WITHHELD
from node.protocol.audit_outcomes import ACCUSED, NOT_AUDITED, UNCONFIRMED
from node.protocol.audits import Test as AuditTest
from tests.builders import account
from tests.unit.control.serving import serving

VOTE = AuditVoteView(
    executor=account(1),
    node_id="node-1",
    model_id="tiny",
    draw=0,
    receipt="ab" * 32,
    request_id="cd" * 32,
    verdict="invalid",
    reason="tokens",
    tokens=128,
    mismatches=40,
    mean_margin=0.2,
    mean_distance=None,
    surprise_z=-3.25,
    evidence_bits=88.5,
)
OUTCOME = AuditOutcomeView(
    executor=account(1),
    model_id="tiny",
    fate="abstain",
    reason="accused",
    answers=3,
    withheld=1,
    tokens=300,
    evidence_bits=88.5,
    accused=3,
)
BOOK = AuditedBookView(executor=account(1), answers=900, output_tokens=90_000, draws=7)


class CannedAudits:
    """One epoch with a cheat; `view` may be replaced."""

    def __init__(self) -> None:
        self.view = AuditsView(epoch=41, books_of=40, books=[BOOK], votes=[VOTE], outcomes=[OUTCOME])
        self.asked: list[AuditsParams] = []
        self.challenged: list[ChallengeParams] = []

    async def audits(self, params: AuditsParams) -> AuditsView:
        self.asked.append(params)
        if params.receipt == "ffffffff":
            raise RpcError(ErrorCode.REFUSED, "this node audited no answer that begins with ffffffff", "See the list.")
        return self.view

    async def challenge(self, params: ChallengeParams) -> ChallengeView:
        self.challenged.append(params)
        if not params.consent:
            raise RpcError(ErrorCode.REFUSED, "the answer is private", "If you agree to that, give --consent.")
        return ChallengeView(
            receipt="ab" * 32, request_id="cd" * 32, executor=account(1), model_id="tiny", is_private=True,
            is_checked=True, waiting=2,
        )  # fmt: skip


@pytest.fixture
def canned() -> CannedAudits:
    return CannedAudits()


@pytest.fixture
def socket(tmp_path: Path, canned: CannedAudits) -> Iterator[Path]:
    path = tmp_path / "quern.sock"
    with serving(path, audit_method_table(canned) | challenge_method_table(canned)):
        yield path


def run(socket: Path, *arguments: str) -> Result:
    return CliRunner().invoke(quern, ["audit", "--socket", str(socket), *arguments])


def test_an_epoch_s_audits_are_told_in_words(socket: Path, canned: CannedAudits) -> None:
    result = run(socket)
    assert result.exit_code == 0, result.output
    for part in ("answers of epoch 40", "900", "abababababab", "too many tokens", "-3.2", "88.5", "judges it again"):
        assert part in result.output
    assert canned.asked == [AuditsParams()]


def test_an_epoch_and_an_answer_can_be_named(socket: Path, canned: CannedAudits) -> None:
    assert run(socket, "41").exit_code == 0
    assert run(socket, "abababab").exit_code == 0
    assert canned.asked == [AuditsParams(epoch=41), AuditsParams(receipt="abababab")]


def test_json_is_what_the_daemon_said(socket: Path, canned: CannedAudits) -> None:
    assert json.loads(run(socket, "--json").output) == json.loads(canned.view.model_dump_json())


@pytest.mark.parametrize("which", ["abc", "-1", "not-hex!", "a" * 65])
def test_what_is_neither_says_what_would_be(socket: Path, which: str) -> None:
    result = run(socket, "--", which)
    assert result.exit_code != 0
    assert "eight hex digits" in result.output


def test_an_answer_that_was_not_audited_says_so(socket: Path) -> None:
    result = run(socket, "ffffffff")
    assert result.exit_code == 1
    assert "audited no answer" in result.output


def test_before_any_result_and_before_this_epoch_s_there_is_nothing_to_show(socket: Path, canned: CannedAudits) -> None:
    canned.view = AuditsView(epoch=0, books_of=None, books=[], votes=[], outcomes=None)
    assert "nothing is audited" in run(socket).output
    canned.view = AuditsView(epoch=1, books_of=0, books=[], votes=[], outcomes=None)
    output = run(socket).output
    assert "Nobody committed" in output
    assert "drawn for none" in output
    assert "none of this epoch yet" in output


def test_what_executors_left_out_is_told_with_who_has_the_proof(socket: Path, canned: CannedAudits) -> None:
    own = OmissionView(executor=account(2), receipt="12" * 32, request_id="", has_book=True, is_own=True, handed_to=3)
    handed = own.model_copy(update={"is_own": False, "has_book": False, "handed_to": 0, "receipt": "34" * 32})
    canned.view = canned.view.model_copy(update={"omissions": [own, handed]})
    output = run(socket).output
    for part in ("121212121212", "otherwise than it must", "this node", "handed to 3 members", "343434343434",
                 "it has no book", "another payer"):  # fmt: skip
        assert part in output
    canned.view = canned.view.model_copy(update={"omissions": []})
    assert "did not book" not in run(socket).output


def test_every_reason_has_words() -> None:
    codes = (
        {test.value for test in AuditTest} | EXCUSED | {ACCUSED, UNCONFIRMED, WITHHELD, NOT_AUDITED, NARROWLY_PROVEN}
    )
    assert codes <= REASONS.keys()


def test_an_answer_is_challenged_and_said_what_happens_to_it(socket: Path, canned: CannedAudits) -> None:
    result = run(socket, "--challenge", "cdcdcdcd", "--consent")
    assert result.exit_code == 0, result.output
    for part in ("abababababab", account(1), "proven not to be the model's", "2 wait", "shown its tokens"):
        assert part in result.output
    assert canned.challenged == [ChallengeParams(receipt="cdcdcdcd", consent=True)]
    assert canned.asked == []
    assert json.loads(run(socket, "--challenge", "cdcdcdcd", "--consent", "--json").output)["waiting"] == 2


def test_without_consent_a_private_answer_is_refused_and_how_to_consent_is_told(socket: Path) -> None:
    result = run(socket, "--challenge", "cdcdcdcd")
    assert result.exit_code == 1
    assert "--consent" in result.output


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("--consent",), "quern audit --challenge RECEIPT"),
        (("41", "--challenge", "cdcdcdcd"), "quern audit --challenge RECEIPT"),
        (("--challenge", "41"), "eight hex digits"),
    ],
)
def test_what_is_no_challenge_says_what_would_be(
    socket: Path, canned: CannedAudits, arguments: tuple[str, ...], hint: str
) -> None:
    result = run(socket, *arguments)
    assert result.exit_code != 0
    assert hint in result.output
    assert canned.challenged == []
