"""What both ends of circuit relay v2 share: protocol names, message classes, size and status."""

from enum import IntEnum
from typing import Any

from libp2p.relay.circuit_v2.pb import circuit_pb2

HOP_PROTOCOL = "/libp2p/circuit/relay/0.2.0/hop"
STOP_PROTOCOL = "/libp2p/circuit/relay/0.2.0/stop"
MESSAGE_BYTES_MAX = 4096
"""The limit of the specification."""

# Any: generated code without types.
HopMessage: Any = circuit_pb2.HopMessage
StopMessage: Any = circuit_pb2.StopMessage
Reservation: Any = circuit_pb2.Reservation
Limit: Any = circuit_pb2.Limit
Peer: Any = circuit_pb2.PeerId


class Status(IntEnum):
    """Answers of a relay, and of the target to a relay."""

    OK = 100
    RESERVATION_REFUSED = 200
    RESOURCE_LIMIT_EXCEEDED = 201
    PERMISSION_DENIED = 202
    CONNECTION_FAILED = 203
    NO_RESERVATION = 204
    MALFORMED_MESSAGE = 400
    UNEXPECTED_MESSAGE = 401


def status_name(code: int) -> str:
    """A status in words."""
    return Status(code).name.lower().replace("_", " ") if code in set(Status) else f"status {code}"
