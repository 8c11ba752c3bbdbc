"""Fields that several methods of the control socket take, with faults in words."""

import re
from typing import Annotated

from eth_utils.address import is_checksum_address, to_checksum_address
from pydantic import AfterValidator, Field

from node.protocol.identifiers import Address

REQUEST_ID = re.compile("[0-9a-f]{8,64}")
PROMPT_ID = re.compile("[0-9a-f]{32}")


def _account(text: str) -> Address:
    """Take an account in any case; where the case carries a checksum, it has to be right: a typo is not looked up."""
    if re.fullmatch("0x[0-9a-fA-F]{40}", text) is None:
        raise ValueError(f"{text[:64]!r} is no account: 0x and 40 hex digits, as `quern chain participants` lists them")
    if text[2:] not in (text[2:].lower(), text[2:].upper()) and not is_checksum_address(text):
        raise ValueError(f"{text} is mistyped: its capital letters are a checksum, and it does not fit")
    return Address(to_checksum_address(text))


def _request_id(text: str) -> str:
    if REQUEST_ID.fullmatch(text) is None:
        raise ValueError(
            f"{text[:64]!r} is no beginning of a request's id: 8 hex digits or more, as `quern receipts list` has them"
        )
    return text


def _prompt_id(text: str) -> str:
    if PROMPT_ID.fullmatch(text) is None:
        raise ValueError(f"{text[:64]!r} is no prompt's id: 32 hex digits, as `quern prompts list` has them")
    return text


AccountText = Annotated[str, AfterValidator(_account)]
"""An account, with its checksum once it is read."""
RequestIdText = Annotated[str, AfterValidator(_request_id)]
"""The beginning of a request's id, in hex."""
PromptIdText = Annotated[str, AfterValidator(_prompt_id)]
EpochField = Annotated[int, Field(ge=0, le=2**53)]
