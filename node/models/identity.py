"""Names of models on this machine, and of the files in them: what they may be, since they become paths."""

import re
from pathlib import PurePosixPath
from typing import NewType

LocalModelId = NewType("LocalModelId", str)
"""A model on this machine: `huggingface/owner/name`, `ipfs/<cid>` or `custom/name`; also its path below the storage."""

MODEL_ID_CHARACTERS_MAX = 200
FILE_PATH_BYTES_MAX = 1024
FILE_DEPTH_MAX = 16
NAME_BYTES_MAX = 255
"""What file systems take."""
_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,95})"
_MODEL_ID = re.compile(rf"(?:huggingface/{_PART}(?:/{_PART})?|custom/{_PART}(?:/{_PART})?|ipfs/{_PART})")


class BadNameError(ValueError):
    """A name that cannot be a model's or a file's; the message says why."""


def parse_model_id(text: str) -> LocalModelId:
    """Return `text` as a model id. Raises BadNameError."""
    if len(text) > MODEL_ID_CHARACTERS_MAX or not _MODEL_ID.fullmatch(text) or ".." in text:
        raise BadNameError(
            f"{text[:MODEL_ID_CHARACTERS_MAX]!r} is no model id: expected huggingface/OWNER/NAME, ipfs/CID or "
            "custom/NAME of letters, digits, `.`, `_` and `-`"
        )
    return LocalModelId(text)


def check_file_path(text: str) -> PurePosixPath:
    """Return a file's path within a model, if it can only lie within it. Raises BadNameError.

    Names come from hubs, servers and peers: absolute ones, `..`, hidden ones and control characters are refused.
    """
    path = PurePosixPath(text)
    parts = text.split("/")
    if not text or len(text.encode("utf-8", "replace")) > FILE_PATH_BYTES_MAX or len(parts) > FILE_DEPTH_MAX:
        raise BadNameError(f"{text[:80]!r} is no usable file name: empty, too long or too deep")
    for part in parts:
        if part in ("", ".", "..") or part.startswith("."):
            raise BadNameError(f"{text!r} is no usable file name: it could leave the model's directory or be hidden")
        if len(part.encode("utf-8", "replace")) > NAME_BYTES_MAX:
            raise BadNameError(f"{text[:80]!r} is no usable file name: a part of it is too long")
        if "\\" in part or not part.isprintable():
            raise BadNameError(f"{text!r} is no usable file name: it has control characters or backslashes")
    return path
