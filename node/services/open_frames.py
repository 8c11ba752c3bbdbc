"""The call by which an open prompt's answer is paid: one payment, no reply but the end of the call.

The call's failure words: `unknown-answer` (it gave none, or was paid long ago), `unpaid` (the payment is not right, or
not enough; nothing changed), `bad-request`.
"""

from dataclasses import dataclass

from node.protocol.codec import SchemaError, from_bytes
from node.protocol.identifiers import RequestId
from node.services.frames import Payment

SETTLE_METHOD = "settle-open/1"
SETTLE_BYTES_MAX = 4096
"""A voucher, two signatures and an id take a tenth of it."""


@dataclass(frozen=True, slots=True)
class SettleOpen:
    """The payment for one answer, with the payer's signature of its receipt."""

    request_id: RequestId
    payment: Payment


def read_settlement(payload: bytes) -> SettleOpen:
    """Read a payment: size, then schema. Raises SchemaError."""
    if len(payload) > SETTLE_BYTES_MAX:
        raise SchemaError(f"a payment of {len(payload)} bytes is over {SETTLE_BYTES_MAX}")
    return from_bytes(SettleOpen, payload)
