"""What a server tells of a prompt's tokens, as records: as columns of numbers where our plug-in is, or as vLLM does.

Asked for is always columns (plugin/common/quern_columns.py). A server that knows nothing of them leaves the request's
field alone and tells of each token by itself, which is read as well.
"""

import math
import struct
from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import Any

from node.engine.drawing import LOGPROB_MAX, read_logprob
from node.ports import EngineFailedError
from node.protocol.draws import Prefill

COLUMNS_FIELD = "quern_columns"
COLUMNS_KEY = "-1"
"""Stands where a token's id would."""
BYTES = 4
"""Of an id, and of a log-probability."""


def columns_from(first: int) -> dict[str, object]:
    """Return what `vllm_xargs` has of who wants numbers alone, of the places from `first` (1 or more) on."""
    return {COLUMNS_FIELD: first}


def read_prefills(
    reply: Mapping[str, Any], token_ids: Sequence[int], first: int, top: int, *, winners: bool = False
) -> list[Prefill]:
    """Read what a prefill tells of the tokens from place `first` on, with `winners` as the last of the candidates
    (winners.py). Raises EngineFailedError.
    """
    try:
        entries = reply["choices"][0]["prompt_logprobs"]
        read = _read_columns if are_columns(entries) else _read_entries
        return read(entries, token_ids, first, top, winners)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise EngineFailedError(f"malformed log-probabilities of a prompt: {error!r}") from error


def read_own_logprobs(entries: object, prompt: Sequence[int]) -> list[float]:
    """Read the log-probabilities of tokens 1..L-1 of a prompt. Raises EngineFailedError."""
    try:
        if not isinstance(entries, list):
            raise ValueError("none came")
        if are_columns(entries):
            ids, logprobs, width = read_tables(entries)
            if ids[::width] != tuple(prompt[1:]):
                raise ValueError("not one for each token")
            return list(logprobs[::width])
        if len(entries) != len(prompt):
            raise ValueError("not one for each token")
        pairs = zip(prompt[1:], entries[1:], strict=True)
        return [float(entry[str(token)]["logprob"]) for token, entry in pairs]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EngineFailedError(f"malformed log-probabilities of a prompt: {error!r}") from error


def are_columns(entries: Any) -> bool:
    """Whether a prompt's log-probabilities came as columns."""
    return len(entries) > 1 and entries[1] is not None and COLUMNS_KEY in entries[1]


def read_tables(entries: Sequence[Any]) -> tuple[tuple[int, ...], tuple[float, ...], int]:
    """Read (token ids, log-probabilities, columns), row by row. Raises KeyError, TypeError or ValueError."""
    ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    (width,) = {entry[COLUMNS_KEY]["rank"] for entry in entries[1:]}
    if not isinstance(width, int) or width < 1:
        raise ValueError("a table without columns")
    for entry in entries[1:]:
        told = b64decode(entry[COLUMNS_KEY]["decoded_token"], validate=True)
        count, odd = divmod(len(told), 2 * BYTES)
        if odd or count % width:
            raise ValueError("rows that end early")
        ids += struct.unpack_from(f"<{count}i", told)
        logprobs += struct.unpack_from(f"<{count}f", told, count * BYTES)
    # A sum is a number only if all of them are.
    if logprobs and not (math.isfinite(math.fsum(logprobs)) and max(logprobs) <= LOGPROB_MAX and min(ids) >= 0):
        raise ValueError("expected log-probabilities of tokens")
    return ids, logprobs, width


def _read_columns(
    entries: Sequence[Any], token_ids: Sequence[int], first: int, top: int, winners: bool
) -> list[Prefill]:
    ids, logprobs, width = read_tables(entries)
    if winners and width != top + 2:
        raise ValueError("a column is missing")
    if ids[::width] != tuple(token_ids[first:]):
        raise ValueError("not one row per token")
    found = []
    for start in range(0, len(ids), width):
        row = ids[start : start + width]
        known = dict(zip(row, logprobs[start : start + width], strict=True))
        found.append(Prefill(known, _top_count(known, top), row[-1] if winners else None))
    return found


def _read_entries(
    entries: Sequence[Any], token_ids: Sequence[int], first: int, top: int, winners: bool
) -> list[Prefill]:
    if len(entries) != len(token_ids):
        raise ValueError("not one entry per token")
    found = []
    for token, entry in zip(token_ids[first:], entries[first:], strict=True):
        known = {int(key): read_logprob(value["logprob"]) for key, value in entry.items()}
        if token not in known or min(known) < 0:
            raise ValueError("the token itself is missing, or another is none")
        found.append(Prefill(known, _top_count(known, top), _winner(entry, token, top + 1) if winners else None))
    return found


def _top_count(known: Mapping[int, float], top: int) -> int:
    """Fewer than were asked for: how many are the likeliest is not known; the last may be the token itself."""
    return top if len(known) >= top else max(1, len(known) - 1)


def _winner(entry: Mapping[str, Any], token: int, rank: int) -> int:
    """Return the token of this rank. The prompt's own token may have it too, for it comes with its true rank."""
    ranked = [int(key) for key, value in entry.items() if value["rank"] == rank]
    (found,) = ranked if len(ranked) == 1 else (other for other in ranked if other != token)
    return found
