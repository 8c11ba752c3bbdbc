"""`quern peers`: bans are shown, made and lifted through a real control socket over a real book of conduct."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from node.cli.main import quern
from node.control.methods import method_table
from node.control.peer_methods import peer_method_table
from node.operations.peers import DaemonPeerOperations
from p2p.standing import Standing
from tests.unit.control.canned import CannedOperations
from tests.unit.control.serving import serving

PEER = "12D3KooWGRUVh7FcjoRbUKBdTvRFDxDHDkJXaJ1gMBoRyGWHAJhV"
OWN = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(quern, list(arguments))


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Path]:
    """A control server in a thread of its own; gives its socket."""
    path = tmp_path / "control.sock"
    operations = DaemonPeerOperations(Standing(time.time), OWN, lambda: {"there is no room": 3, "too fast": 0})
    methods = method_table(CannedOperations()) | peer_method_table(operations)
    with serving(path, methods):
        yield path


def test_the_group_without_a_command_still_lists_the_peers(daemon: Path) -> None:
    assert "12D3KooWother" in run("peers", "--socket", str(daemon)).stdout


def test_a_ban_is_made_shown_with_its_reason_and_lifted(daemon: Path) -> None:
    at = ("--socket", str(daemon))
    assert "nobody is banned" in run("peers", "bans", *at).stdout
    made = run("peers", "ban", PEER, "--hours", "2", "--reason", "floods us", *at)
    assert (made.exit_code, PEER in made.stdout) == (0, True)
    shown = run("peers", "bans", *at)
    for part in (PEER, "floods us", "there is no room"):
        assert part in shown.stdout
    assert "too fast" not in shown.stdout
    (ban,) = json.loads(run("peers", "bans", "--json", *at).stdout)["bans"]
    assert ban["until"] - ban["since"] == 7200
    assert run("peers", "pardon", PEER, *at).exit_code == 0
    assert "nobody is banned" in run("peers", "bans", *at).stdout
    again = run("peers", "pardon", PEER, *at)
    assert (again.exit_code, "was not banned" in again.stderr) == (1, True)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("203.0.113.7", "/ip4/203.0.113.7"),
        ("2001:db8::7", "/ip6/2001:db8::/ipcidr/64"),
        ("/ip4/203.0.113.7", "/ip4/203.0.113.7"),
        ("203.0.113.7:4802", "203.0.113.7:4802"),
    ],
)
def test_an_address_is_banned_under_the_name_of_its_conduct(daemon: Path, given: str, name: str) -> None:
    run("peers", "ban", given, "--socket", str(daemon))
    (ban,) = json.loads(run("peers", "bans", "--json", "--socket", str(daemon)).stdout)["bans"]
    assert ban["peer"] == name


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("ban", "nonsense"), "neither a peer id nor an address"),
        (("ban", OWN), "this daemon itself"),
        (("ban", PEER, "--hours", "0"), "hours"),
        (("pardon", "nonsense"), "neither a peer id nor an address"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(daemon: Path, arguments: tuple[str, ...], word: str) -> None:
    result = run("peers", *arguments, "--socket", str(daemon))
    assert result.exit_code == 1
    assert word in result.stderr
