"""`quern alerts`: what is wrong now, and an exit code that says whether a test notice arrived."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from node.cli.main import quern
from node.control.alert_methods import alert_method_table
from node.control.alert_views import AlertsView, AlertTestView, AlertView
from tests.unit.control.serving import serving


class CannedAlerts:
    """One trouble, and a webhook that takes every second notice."""

    def __init__(self) -> None:
        self.tests = 0

    async def alerts(self) -> AlertsView:
        alert = AlertView(
            kind="low-gas", severity="warning", subject="account", message="little gas is left",
            remedy="Send gas coins.", since=1_700_000_000,
        )  # fmt: skip
        return AlertsView(alerts=[alert], webhook="hooks.example", kinds=["low-gas"], delivered=3, failed=1, dropped=0)

    async def test(self) -> AlertTestView:
        self.tests += 1
        arrived = self.tests % 2 == 1
        return AlertTestView(webhook="hooks.example", delivered=arrived, reason="" if arrived else "status 500")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("d") / "control.sock"
    with serving(path, alert_method_table(CannedAlerts())):
        yield path


def run(daemon: Path, *words: str) -> Result:
    return CliRunner().invoke(quern, ["alerts", *words, "--socket", str(daemon)])


def test_what_is_wrong_is_listed_with_what_to_do(daemon: Path) -> None:
    text = run(daemon, "list")
    assert (text.exit_code, text.exception) == (0, None)
    for part in ("little gas is left", "Send gas coins.", "2023-11-14", "3 delivered, 1 given up"):
        assert part in text.stdout
    assert json.loads(run(daemon, "list", "--json").stdout)["alerts"][0]["kind"] == "low-gas"


def test_a_test_notice_that_does_not_arrive_is_a_failure(daemon: Path) -> None:
    arrived = run(daemon, "test")
    assert (arrived.exit_code, arrived.stdout) == (0, "hooks.example took the notice\n")
    lost = run(daemon, "test")
    assert lost.exit_code == 1
    assert "status 500" in lost.stderr
