"""The tokens of models: the one that opens gated models on the Hub, and those that open the management API.

Both are files that only the daemon's user can read; neither is ever logged, shown or put into the registry. Of the
API's tokens only digests are stored: whoever reads the file cannot use them.
"""

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from node.private_files import PrivateFileError, read_private_file, replace_private_file

HUB_TOKEN_VARIABLE = "HF_TOKEN"  # noqa: S105 - the name of a variable
TOKEN_BYTES = 32
TOKENS_MAX = 256
_HUB_TOKEN = re.compile(r"[\x21-\x7e]{4,512}")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


class ApiRole(StrEnum):
    """What a token of the management API may do; each may do what those before it may."""

    READ_ONLY = "read-only"
    """Look."""
    OPERATOR = "operator"
    """Also download, cancel and pin."""
    ADMIN = "admin"
    """Also remove."""

    def may(self, needed: "ApiRole") -> bool:
        """Whether this role suffices where `needed` is asked for."""
        order = list(ApiRole)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True, slots=True)
class ApiToken:
    """A token as it is stored."""

    name: str
    role: ApiRole
    digest: str
    """sha256 of the token, which has 256 random bits: nothing is gained by a slower hash."""


def read_hub_token(file: Path, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the Hub token: HF_TOKEN, else the first line of `file`, else None.

    Raises PrivateFileError if others can read the file, or if it holds no token.
    """
    given = environment.get(HUB_TOKEN_VARIABLE, "").strip()
    if not given:
        if not file.exists():
            return None
        given = read_private_file(file).decode("utf-8", "replace").partition("\n")[0].strip()
    if not _HUB_TOKEN.fullmatch(given):
        raise PrivateFileError(f"what is in {HUB_TOKEN_VARIABLE} or {file} is no Hub token; see quern model login")
    return given


def write_hub_token(file: Path, token: str) -> None:
    """Store the Hub token in place of an earlier one. Raises PrivateFileError, ValueError for what is no token."""
    if not _HUB_TOKEN.fullmatch(token):
        raise ValueError("that is no token of the Hub: it has no blanks and starts with hf_")
    replace_private_file(file, token.encode() + b"\n")


def read_api_tokens(file: Path) -> tuple[ApiToken, ...]:
    """Return the API's tokens; none if there is no file. Raises PrivateFileError."""
    if not file.exists():
        return ()
    tokens = []
    for line in read_private_file(file).decode("utf-8", "replace").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        parts = line.split()
        try:
            name, role, digest = parts
            tokens.append(ApiToken(name, ApiRole(role), digest))
        except ValueError as error:
            raise PrivateFileError(f"{file} has a line that is not NAME ROLE DIGEST; see quern model token") from error
    return tuple(tokens[:TOKENS_MAX])


def add_api_token(file: Path, name: str, role: ApiRole) -> str:
    """Make a token and return it: it can't be read again. Raises PrivateFileError, ValueError for a name in use."""
    if not _NAME.fullmatch(name):
        raise ValueError("a token's name has 1 to 64 letters, digits, `.`, `_` or `-`")
    tokens = read_api_tokens(file)
    if any(token.name == name for token in tokens):
        raise ValueError(f"there is a token named {name} already: remove it, or choose another name")
    if len(tokens) >= TOKENS_MAX:
        raise ValueError(f"there are {TOKENS_MAX} tokens already: remove some")
    token = "qm_" + secrets.token_urlsafe(TOKEN_BYTES)
    _write_api_tokens(file, (*tokens, ApiToken(name, role, _digest(token))))
    return token


def remove_api_token(file: Path, name: str) -> bool:
    """Remove a token; whether there was one. It opens nothing any more from the next request on."""
    tokens = read_api_tokens(file)
    kept = tuple(token for token in tokens if token.name != name)
    if len(kept) == len(tokens):
        return False
    _write_api_tokens(file, kept)
    return True


def find_api_token(tokens: tuple[ApiToken, ...], presented: str) -> ApiToken | None:
    """Return the token that was presented; takes the same time whichever it is, and if it is none."""
    digest = _digest(presented)
    found: ApiToken | None = None
    for token in tokens:
        if hmac.compare_digest(token.digest, digest):
            found = token
    return found


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def _write_api_tokens(file: Path, tokens: tuple[ApiToken, ...]) -> None:
    lines = [f"{token.name} {token.role.value} {token.digest}\n" for token in tokens]
    replace_private_file(file, "".join(lines).encode())
