"""`quern network` over a real control socket and two real nodes."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from node.cli.main import quern
from node.control.discovery_methods import discovery_method_table
from node.control.methods import Method
from node.operations.discovery import DaemonDiscoveryOperations
from p2p.content.cid import Cid, Codec
from p2p.discovery.service import DiscoveryOptions
from tests.integration.p2p.nodes import dht_of, open_node
from tests.unit.control.serving import serving_opened
from tests.waiting import until

CID = str(Cid.of(Codec.DAG_PB, b"a model"))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(quern, list(arguments))


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Path]:
    """Two nodes and the control socket of the second; the first provides a content."""
    path = tmp_path / "control.sock"

    @asynccontextmanager
    async def connected() -> AsyncIterator[dict[str, Method]]:
        relaying = DiscoveryOptions(relay_server=True)
        async with (
            open_node(1, discovery=relaying) as first,
            open_node(2, first.addresses, discovery=relaying) as second,
        ):
            first.discovery.provide(CID)
            await until(lambda: dht_of(first.discovery).announced and second.peers(), 60)
            operations = DaemonDiscoveryOperations(second.discovery, second.peer_id, second.clock_skew_seconds)
            yield discovery_method_table(operations)

    with serving_opened(path, connected(), start_seconds_max=60):
        yield path


def test_the_network_its_peers_and_providers_are_shown(daemon: Path) -> None:
    shown = run("network", "--socket", str(daemon))
    assert shown.exit_code == 0, shown.output
    assert "/ip4/127.0.0.1/tcp/" in shown.stdout
    assert "listening" in shown.stdout
    status = json.loads(run("network", "--socket", str(daemon), "--json").stdout)
    assert (status["connected"], status["reachability"]) == (1, "unknown")
    known = json.loads(run("network", "known", "--socket", str(daemon), "--json").stdout)
    assert [each["origin"] for each in known["addresses"]] == ["operator"]
    assert "operator" in run("network", "known", "--socket", str(daemon)).stdout
    found = json.loads(run("network", "providers", CID, "--socket", str(daemon), "--json").stdout)
    assert [each["peer_id"] for each in found["providers"]] == [known["addresses"][0]["peer_id"]]
    wrong = run("network", "providers", "nonsense", "--socket", str(daemon))
    assert wrong.exit_code == 1
    assert "A CID here begins with" in wrong.output
