"""Reads the content of a result for an operator: what is here, else from peers, for a while."""

import trio

from node.control.jsonrpc import ErrorCode, RpcError
from node.ports import Content, ContentUnavailableError
from node.protocol.codec import SchemaError, from_bytes
from node.protocol.identifiers import Cid, EpochNumber
from node.protocol.records import EpochResult
from node.services.epochs import RESULT_BYTES_MAX, read_result_in_slices
from node.services.presence import PresenceTable
from node.services.slicing import Slicer

FETCH_SECONDS_MAX = 20.0
"""How long an operator waits for content that is not here."""


async def read_result(content: Content, presence: PresenceTable, epoch: EpochNumber, cid: Cid) -> EpochResult:
    """Return the result of `epoch` whose content is `cid`. Raises RpcError."""
    try:
        with trio.fail_after(FETCH_SECONDS_MAX):
            data = await content.read_bytes(cid, presence.providers(), limit_bytes=RESULT_BYTES_MAX)
        result = await Slicer().run(read_result_in_slices(data))
    except (ContentUnavailableError, trio.TooSlowError, SchemaError, ValueError) as error:
        raise RpcError(
            ErrorCode.REFUSED,
            f"the content {cid} of a result is not to be had: {str(error) or 'nobody gave it in time'}",
            "Try again when more peers are connected: `quern peers`.",
        ) from error
    if result.epoch != epoch:
        raise RpcError(ErrorCode.REFUSED, f"{cid} is the result of epoch {result.epoch}, not of {epoch}", "")
    return result


def parse_result(data: bytes, epoch: EpochNumber, origin: str) -> EpochResult:
    """Return a result that somebody saved to a file. Raises RpcError."""
    try:
        result = from_bytes(EpochResult, data)
    except SchemaError as error:
        raise RpcError(
            ErrorCode.REFUSED,
            f"{origin} is no epoch result of this version: {error}",
            "It must be the content of a result, as `quern ipfs get CID -o FILE` saves it.",
        ) from error
    if result.epoch != epoch:
        raise RpcError(ErrorCode.REFUSED, f"{origin} is the result of epoch {result.epoch}, not of {epoch}", "")
    return result
