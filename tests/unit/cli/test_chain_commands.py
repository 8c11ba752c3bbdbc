"""`quern chain`: each view as text and as JSON, each wish as the daemon gets it, refusals with what to do."""

import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from node.cli.chain import chain
from node.cli.main import quern
from node.control.chain_methods import chain_method_table
from tests.unit.control.canned_chain import ACCOUNT, CannedChainOperations
from tests.unit.control.serving import serving

OPERATIONS = CannedChainOperations()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A control server in a thread of its own; gives its socket."""
    path = tmp_path_factory.mktemp("d") / "control.sock"
    with serving(path, chain_method_table(OPERATIONS)):
        yield path


def run(daemon: Path, *arguments: str) -> Result:
    return CliRunner().invoke(quern, ["chain", *arguments, "--socket", str(daemon)])


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        ("status", ("below the reserve of 0.05", "no endpoint answers", "1 pending, 2 failed", "two.example")),
        ("intents", ("sent, 0 of 1 done", "0xabc")),
        ("intents --all", ("WrongStage", "failed")),
        ("participants", ("1 (33.3 %)", "undercollateralised", "gpu0 (tiny)")),
        ("collateral", ("barred until epoch 42", "0.01")),
        ("channels", ("from 2027-01-15 08:00:00 UTC", "0xpayee")),
        ("prompts", ("answered", "99", "bafkanswer")),
    ],
)
def test_each_view_is_shown_as_text_and_as_json(daemon: Path, command: str, parts: tuple[str, ...]) -> None:
    text = run(daemon, *command.split())
    assert (text.exit_code, text.exception) == (0, None)
    for part in parts:
        assert part in text.stdout
    assert isinstance(json.loads(run(daemon, *command.split(), "--json").stdout), dict)


@pytest.mark.parametrize(
    ("command", "wish"),
    [
        ("collateral deposit 2.5", {"kind": "deposit-collateral", "amount": str(25 * 10**17)}),
        ("collateral unbond 1", {"kind": "unbond-collateral", "amount": str(10**18)}),
        ("collateral withdraw", {"kind": "withdraw-collateral"}),
        (f"channels request {ACCOUNT}", {"kind": "request-channel", "payee": ACCOUNT}),
        (f"channels withdraw {ACCOUNT}", {"kind": "withdraw-channel", "payee": ACCOUNT}),
        ("prompts dispute 7 bafkreason", {"kind": "dispute-prompt", "prompt_id": 7, "reason_cid": "bafkreason"}),
        ("unregister --yes", {"kind": "unregister"}),
    ],
)
def test_each_wish_reaches_the_daemon_as_meant_and_its_cost_is_told(
    daemon: Path, command: str, wish: dict[str, object]
) -> None:
    result = run(daemon, *command.split())
    assert (result.exit_code, result.exception) == (0, None)
    assert OPERATIONS.wishes[-1].model_dump() == wish
    assert f"Done: did {wish['kind']}." in result.stdout
    assert "44000 gas, in 0x12" in result.stdout
    assert "transaction 1 of 1 is sent" in result.stderr


@pytest.mark.parametrize("amount", ["0", "nonsense", "-1", "1e-19", "NaN", "1e13"])
def test_an_amount_that_is_none_never_reaches_the_daemon(daemon: Path, amount: str) -> None:
    before = len(OPERATIONS.wishes)
    result = run(daemon, "collateral", "deposit", "--", amount)
    assert result.exit_code != 0
    assert len(OPERATIONS.wishes) == before


@pytest.mark.parametrize("command", [["sponsor", "3"], ["unregister"]])
def test_what_cannot_be_taken_back_is_asked_for_first(daemon: Path, command: list[str]) -> None:
    before = len(OPERATIONS.wishes)
    result = run(daemon, *command)
    assert result.exit_code == 1
    assert "--yes" in result.stderr
    assert len(OPERATIONS.wishes) == before


def test_a_refusal_is_shown_with_what_to_do(daemon: Path) -> None:
    result = run(daemon, "sponsor", "3", "--yes")
    assert result.exit_code == 1
    assert "error: this needs more than there is" in result.stderr
    assert "quern earnings" in result.stderr


def test_every_command_explains_itself_with_an_example_and_no_summary_is_cut_off() -> None:
    def walk(group: click.Group, words: tuple[str, ...]) -> None:
        shown = CliRunner().invoke(quern, [*words, "--help"]).stdout
        assert "..." not in shown.partition("Commands:")[2]
        for name, command in group.commands.items():
            text = CliRunner().invoke(quern, [*words, name, "--help"]).stdout
            assert f"quern {' '.join((*words, name))}" in text
            if isinstance(command, click.Group):
                walk(command, (*words, name))

    walk(chain, ("chain",))
