"""The call by which a payer hands a proof of an omission to a member: one proof, no reply but the end of the call.

The call's failure words: `bad-request` (too large, or malformed), `other-epoch` (the member looks at another result, or
has not begun: try again), `not-proven` (the proof does not hold), `own` (it is against whoever was asked), `enough`
(the caller has handed over what it may, or there is no room for more in this epoch), `busy` (the member looks at no
more for now, whoever calls: try again).
"""

from dataclasses import dataclass

from node.protocol.audit_votes import AuditVoteError, check_omission
from node.protocol.codec import SchemaError, from_bytes, to_bytes
from node.protocol.identifiers import EpochNumber
from node.protocol.records import Omission

METHOD = "omission/1"
HANDED_BYTES_MAX = 16 * 1024
"""A proof from the largest books has some 4 KiB."""


@dataclass(frozen=True, slots=True)
class HandedOmission:
    """A proof that holds against the books that the result of an epoch knows."""

    result_epoch: EpochNumber
    omission: Omission


def handed_bytes(result_epoch: EpochNumber, omission: Omission) -> bytes:
    """Return what a call is opened with."""
    return to_bytes(HandedOmission(result_epoch, omission))


def read_handed(payload: bytes) -> HandedOmission:
    """Read a proof: size, then schema, then what a bundle may have. Raises SchemaError; whether it holds is open."""
    if len(payload) > HANDED_BYTES_MAX:
        raise SchemaError(f"a proof of {len(payload)} bytes is over {HANDED_BYTES_MAX}")
    handed = from_bytes(HandedOmission, payload)
    try:
        check_omission(handed.omission)
    except AuditVoteError as error:
        raise SchemaError(str(error)) from error
    return handed
