"""Calibrations in files, in the registry and in its logs: the contract keeps a hash of each, its events the bytes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eth_hash.auto import keccak

from contracts import bindings
from contracts.bindings import model_registry
from node.chain.addresses import Deployment
from node.chain.owner_calls import RefusedError, ask
from node.chain.rpc import JsonRpc, RpcError, hex_bytes
from node.protocol.calibration import Calibration, CalibrationError, parse_calibration
from node.protocol.codec import SchemaError
from node.protocol.json_records import from_json_value, to_json_value

FILE_BYTES_MAX = 64 * 1024
"""Far more than the largest calibration takes as JSON."""


def read_calibration_file(path: Path) -> Calibration:
    """Read a calibration as `quern calibrate` writes it. Raises CalibrationError, OSError."""
    if path.stat().st_size > FILE_BYTES_MAX:
        raise CalibrationError(f"{path} is too large to be a calibration record: is it a reference? See `--record`.")
    try:
        return calibration_from_json(json.loads(path.read_bytes()))
    except (ValueError, RecursionError) as error:
        raise CalibrationError(f"{path} is no calibration as `quern calibrate` writes it: {error}") from error


def calibration_from_json(value: object) -> Calibration:
    """Return the calibration that `json.loads` gave. Raises CalibrationError."""
    try:
        return from_json_value(Calibration, value)
    except SchemaError as error:
        raise CalibrationError(str(error)) from error


def calibration_to_json(data: bytes) -> dict[str, Any] | None:
    """Return the registry's bytes as JSON; None if they are no calibration, which then counts as none everywhere."""
    try:
        return to_json_value(parse_calibration(data))
    except CalibrationError:
        return None


async def read_calibration(rpc: JsonRpc, deployment: Deployment, model_id: str, version: int) -> bytes:
    """Return the bytes of a version's calibration, empty if it has none, proven by the hash that the registry keeps.

    Raises RefusedError if the endpoint does not give the logs that have them.
    """
    registry = deployment.addresses.model_registry
    wanted = await ask(rpc, registry, model_registry.calibration_hash_of(model_id, version))
    if not any(wanted):
        return b""
    where = {
        "address": registry,
        "fromBlock": hex(deployment.block),
        "toBlock": "latest",
        "topics": ["0x" + model_registry.ModelCalibrated.TOPIC.hex()],
    }
    try:
        logs = await rpc.call("eth_getLogs", where)
    except RpcError as error:
        raise RefusedError(
            f"the endpoint does not give the logs with the calibration of {model_id} ({error}); ask a node of your own"
        ) from error
    for entry in reversed(logs if isinstance(logs, list) else []):
        data = _calibration_in(entry)
        if data is not None and keccak(data) == wanted:
            return data
    raise RefusedError(
        f"the endpoint has no log with the calibration of {model_id} that the registry names; ask another"
    )


def _calibration_in(entry: Mapping[str, Any]) -> bytes | None:
    try:
        topics = [hex_bytes(topic) for topic in entry["topics"]]
        event = bindings.decode_event("ModelRegistry", topics, hex_bytes(entry["data"]))
    except (KeyError, TypeError, ValueError):
        return None
    return event.calibration if isinstance(event, model_registry.ModelCalibrated) else None
