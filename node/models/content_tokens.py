"""The tokens of content gateways: what ours asks of others, and what theirs ask of us.

Both are files that only the daemon's user can read: a settings file is shown, copied and kept in repositories.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from node.private_files import PrivateFileError, read_private_file

PROVIDERS_MAX = 1024
_TOKEN = re.compile(r"[\x21-\x7e]{16,512}")
"""Long enough not to be guessed."""
_PROVIDER = re.compile(r"\S{1,255}:[0-9]{1,5}")


def read_gateway_token(file: Path | None) -> str:
    """Return the token that our gateway asks for: the first line of `file`; empty without a file. PrivateFileError."""
    if file is None:
        return ""
    token = next(iter(_lines(file)), "")
    if not _TOKEN.fullmatch(token):
        raise PrivateFileError(f"{file} holds no token: write one line of 16 to 512 characters without spaces into it")
    return token


def read_provider_tokens(file: Path | None) -> Mapping[str, str]:
    """Return tokens by `host:port`, from lines of both with a space between. Raises PrivateFileError."""
    found: dict[str, str] = {}
    for line in () if file is None else _lines(file):
        provider, _, token = line.partition(" ")
        if not _PROVIDER.fullmatch(provider) or not _TOKEN.fullmatch(token.strip()):
            raise PrivateFileError(f"{file}: each line is `host:port token`, the token of 16 to 512 characters")
        found[provider] = token.strip()
    if len(found) > PROVIDERS_MAX:
        raise PrivateFileError(f"{file} names more than {PROVIDERS_MAX} providers")
    return found


def _lines(file: Path) -> list[str]:
    try:
        lines = read_private_file(file).decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise PrivateFileError(f"{file} is not text") from None
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
