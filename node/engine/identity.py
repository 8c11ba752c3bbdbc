"""Which engine answers at an endpoint, and whether it serves the model it is to serve."""

from dataclasses import dataclass
from pathlib import Path

import httpx
from pydantic_core import from_json

from node.engine.plan import Choice
from node.ports import EngineFailedError
from node.protocol.engines import ENGINE_RANGE_DEFAULT, parse_engine_range

ENGINE_NAME = "vllm"
ANSWER_SECONDS_MAX = 10.0
VERSION_CHARACTERS_MAX = 64
MODELS_READ_MAX = 256
"""Of what a server lists: the model itself and its adapters."""
CONFIG_BYTES_MAX = 4 * 1024 * 1024
VOCABULARY_MAX = 2**31


class EngineOutsideRangeError(Exception):
    """The engine works, but in a version that the network does not run this model with."""


@dataclass(frozen=True, slots=True)
class EngineIdentity:
    """What a server says of itself."""

    version: str
    context_length: int | None
    """Tokens it accepts, prompt and output together; None if it does not say."""


async def identify(http: httpx.AsyncClient, choice: Choice) -> EngineIdentity:
    """Ask a server what it is. Raises EngineFailedError if it is not what `choice` needs, EngineOutsideRangeError."""
    version = await read_version(http)
    check_range(choice, version)
    models = (await _get(http, "/v1/models")).get("data")
    if not isinstance(models, list):
        raise EngineFailedError("/v1/models: the reply lists no models")
    named = {entry["id"]: entry for entry in models[:MODELS_READ_MAX] if _is_named(entry)}
    entry = named.get(choice.model_id)
    if entry is None:
        others = ", ".join(sorted(named))[:200] or "none"
        raise EngineFailedError(
            f"the server does not serve {choice.model_id} but {others}: start it with --served-model-name "
            f"{choice.model_id}"
        )
    length = entry.get("max_model_len")
    length = length if isinstance(length, int) and not isinstance(length, bool) else None
    if length is not None and length < choice.context_length:
        raise EngineFailedError(
            f"the server reads {length} tokens, the network promises {choice.context_length}: start it with "
            f"--max-model-len {choice.context_length}"
        )
    return EngineIdentity(version, length)


async def read_version(http: httpx.AsyncClient) -> str:
    """Return the version that a server says it has. Raises EngineFailedError."""
    version = (await _get(http, "/version")).get("version")
    if not isinstance(version, str) or not 0 < len(version) <= VERSION_CHARACTERS_MAX or not version.isprintable():
        raise EngineFailedError("/version: the reply names no version; is it a vLLM server?")
    return version


def check_range(choice: Choice, version: str) -> None:
    """Raise EngineOutsideRangeError if the network runs `choice` with other versions."""
    allowed = parse_engine_range(choice.engine) if choice.engine else ENGINE_RANGE_DEFAULT
    reason = allowed.why_not(ENGINE_NAME, version)
    if reason is not None:
        raise EngineOutsideRangeError(reason)


def read_vocabulary_size(path: Path) -> int:
    """Return how many token ids the model in `path` has. Raises EngineFailedError."""
    file = path / "config.json"
    try:
        if file.stat().st_size > CONFIG_BYTES_MAX:
            raise EngineFailedError(f"{file} is too large for what it is")
        config = from_json(file.read_bytes())
    except (OSError, ValueError) as error:
        raise EngineFailedError(f"{file} cannot be read: {error}") from error
    if isinstance(config, dict):
        for part in (config, config.get("text_config")):
            size = part.get("vocab_size") if isinstance(part, dict) else None
            if isinstance(size, int) and not isinstance(size, bool) and 0 < size <= VOCABULARY_MAX:
                return size
    raise EngineFailedError(f"{file} has no vocab_size")


async def _get(http: httpx.AsyncClient, path: str) -> dict[str, object]:
    try:
        response = await http.get(path, timeout=ANSWER_SECONDS_MAX)
    except httpx.HTTPError as error:
        raise EngineFailedError(f"the server cannot be reached: {error!r}") from error
    if response.status_code in (401, 403):
        raise EngineFailedError(f"{path}: the server asks for another key: see api_key_file")
    if response.is_error:
        raise EngineFailedError(f"{path}: status {response.status_code}")
    try:
        reply = from_json(response.content)
    except ValueError as error:
        raise EngineFailedError(f"{path}: the reply is not JSON; is it a vLLM server?") from error
    if not isinstance(reply, dict):
        raise EngineFailedError(f"{path}: the reply is not an object; is it a vLLM server?")
    return reply


def _is_named(entry: object) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("id"), str)
