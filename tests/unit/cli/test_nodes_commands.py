"""`quern nodes`: how each ML node is, why it is not drawn and what to do, through a real control socket."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from node.cli.main import quern
from node.control.methods import method_table
from node.control.node_methods import node_method_table
from node.engine.states import NodeState
from node.engine.status import NodeStatus
from node.operations.nodes import DaemonNodeOperations
from node.protocol.identifiers import ModelId, NodeId
from node.settings.sections.engines import EngineSettings
from tests.unit.control.canned import CannedOperations
from tests.unit.control.serving import serving

SERVING = NodeStatus(
    NodeId("gpu0"), NodeState.SERVING, 3700.0, ModelId("tiny"), "", "vllm 0.32.0", "", 3, 1, "it was killed", "", False,
    False,
)  # fmt: skip
FAILED = replace(
    SERVING, node_id=NodeId("far"), state=NodeState.FAILED, place="http://10.0.0.7:8000", running_requests=0
)


class PlayedNode:
    """An ML node that does at once what it is told."""

    def __init__(self, status: NodeStatus) -> None:
        self.now = status
        self.restarted = 0

    @property
    def node_id(self) -> NodeId:
        return self.now.node_id

    def status(self) -> NodeStatus:
        return self.now

    def hold(self) -> None:
        self.now = replace(self.now, state=NodeState.DRAINING, held=True)

    def release(self) -> None:
        self.now = replace(self.now, state=NodeState.SERVING, held=False)

    async def restart(self) -> None:
        self.restarted += 1


def run(*arguments: str) -> Result:
    return CliRunner().invoke(quern, list(arguments))


@pytest.fixture
def nodes() -> list[PlayedNode]:
    return [PlayedNode(SERVING), PlayedNode(FAILED)]


@pytest.fixture
def daemon(tmp_path: Path, nodes: list[PlayedNode]) -> Iterator[tuple[str, str]]:
    """A control server in a thread of its own; gives the options that name its socket."""
    path = tmp_path / "control.sock"
    chain: Any = SimpleNamespace(account="0x1", state=SimpleNamespace(participants={}))
    played: Any = nodes
    settings = [EngineSettings(node_id=node.node_id, model_id="tiny") for node in nodes]
    operations = DaemonNodeOperations(chain, played, settings)
    methods = method_table(CannedOperations()) | node_method_table(operations)
    with serving(path, methods):
        yield "--socket", str(path)


def test_what_is_well_is_one_line_and_what_is_not_says_why_and_what_to_do(daemon: tuple[str, str]) -> None:
    shown = run("nodes", *daemon).stdout
    assert "1 h 1 min" in shown
    assert "it was killed" in shown  # of the node that failed; a mended failure is no news
    assert shown.count("it was killed") == 1
    assert "is the server at http://10.0.0.7:8000 running?" in shown
    first, second = json.loads(run("nodes", "--json", *daemon).stdout)["nodes"]
    assert (first["state"], first["running_requests"], first["why_not_drawn"]) == ("serving", 3, "")
    assert (second["place"], second["why_not_drawn"]) == ("http://10.0.0.7:8000", "it is failed")


def test_what_a_serving_node_lacks_is_told(daemon: tuple[str, str], nodes: list[PlayedNode]) -> None:
    nodes[0].now = replace(SERVING, caution="its answers hold up in no audit")
    assert "its answers hold up in no audit" in run("nodes", *daemon).stdout


def test_a_node_is_drained_resumed_and_restarted_by_name(daemon: tuple[str, str], nodes: list[PlayedNode]) -> None:
    drained = run("nodes", "drain", "gpu0", *daemon).stdout
    assert "gpu0 is draining, 3 requests still run" in drained
    assert "quern nodes resume gpu0" in drained
    assert "gpu0 is serving" in run("nodes", "resume", "gpu0", *daemon).stdout
    assert run("nodes", "restart", "far", *daemon).exit_code == 0
    assert [node.restarted for node in nodes] == [0, 1]


def test_a_node_that_is_not_there_is_answered_with_those_that_are(daemon: tuple[str, str]) -> None:
    refused = run("nodes", "drain", "gpu9", *daemon)
    assert refused.exit_code == 1
    assert "far, gpu0" in refused.output


def test_a_version_outside_the_range_is_the_reason() -> None:
    outside = replace(FAILED, outside="the network runs this model with vllm>=0.33, this node has vllm 0.32.0")
    assert outside.why_not_drawn == outside.outside
    assert "install a version of vLLM within the range" in outside.remedy
