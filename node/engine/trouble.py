"""Tells the operator of a node's failures, and when they are over: in the log each, by an alert what is no hiccup."""

import structlog
import trio

from node.engine.alerts import ENGINE_FAILED, ENGINE_GIVEN_UP, ENGINE_OUTSIDE_RANGE, ENGINE_RECOVERED, AlertHook
from node.engine.failures import ALERT_FAILURES, ERROR_CHARACTERS_MAX, FailureRecord
from node.protocol.identifiers import ModelId, NodeId

log = structlog.get_logger(__name__)


class Trouble:
    """Notes in `failures` what went wrong with one node, and tells it once."""

    def __init__(self, node_id: NodeId, failures: FailureRecord, on_alert: AlertHook) -> None:
        self._node_id = node_id
        self._failures = failures
        self._on_alert = on_alert
        self._alerted = False

    def note_failure(self, ready_at: float, reason: str) -> None:
        """Note that a server ended by itself, which was ready since `ready_at`, infinite if it never was."""
        failures = self._failures
        failures.note(trio.current_time(), ready_at, reason)
        if failures.given_up:
            log.critical("an engine failed too often and is given up", node=self._node_id, reason=reason)
            self._alert(
                ENGINE_GIVEN_UP,
                f"ML node {self._node_id} is given up after {len(failures.crashes)} failures. Mend the cause, "
                f"then run: quern nodes restart {self._node_id}. The last: {reason}",
            )
            return
        seconds = round(failures.retry_at - trio.current_time(), 1)
        log.error("an engine failed; it is tried again", node=self._node_id, in_seconds=seconds, reason=reason)
        if failures.streak >= ALERT_FAILURES and not self._alerted:
            self._alert(ENGINE_FAILED, f"ML node {self._node_id} failed {failures.streak} times in a row: {reason}")

    def note_outside(self, reason: str) -> None:
        """Note that the engine's version is outside the network's range."""
        if self._failures.note_outside(trio.current_time(), reason):
            log.error("an ML node is not drawn: its engine is outside the range", node=self._node_id, reason=reason)
            self._alert(ENGINE_OUTSIDE_RANGE, f"ML node {self._node_id} does not serve: {reason}")

    def is_over(self, model_id: ModelId) -> None:
        """Note that the node serves."""
        self._failures.outside = ""
        if self._alerted:
            self._alerted = False
            self._on_alert(ENGINE_RECOVERED, f"ML node {self._node_id} serves {model_id} again")

    def _alert(self, kind: str, message: str) -> None:
        self._alerted = True
        self._on_alert(kind, " ".join(message.split())[:ERROR_CHARACTERS_MAX])
