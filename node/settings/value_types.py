"""Texts and numbers that settings may be, such as amounts, accounts and addresses; each is checked when it is read."""

from typing import Annotated
from urllib.parse import urlsplit

import multiaddr
from eth_utils.address import is_address, to_checksum_address
from pydantic import AfterValidator, Field

from node.amounts import tokens_to_amount
from node.engine.endpoint import parse_endpoint
from node.protocol.hosts import is_host


def _check_tokens(text: str) -> str:
    tokens_to_amount(text)
    return text


def _check_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"expected a URL such as http://127.0.0.1:8545, got {url!r}")
    return url


def _check_multiaddr(text: str) -> str:
    try:
        multiaddr.Multiaddr(text)
    except Exception as error:  # the library has no common base of its errors
        raise ValueError(f"expected a multiaddress such as /ip4/127.0.0.1/tcp/4801, got {text!r}: {error}") from error
    return text


def _check_account(text: str) -> str:
    if not is_address(text):
        raise ValueError(f"expected an account such as 0x and 40 hex digits, got {text!r}")
    return to_checksum_address(text)


def _check_place(text: str) -> str:
    if text:
        parse_endpoint(text)
    return text


def _check_host(text: str) -> str:
    if text and not is_host(text):
        raise ValueError(f"expected an IP address or a host's name in ASCII, got {text!r}: peers refuse others")
    return text


Tokens = Annotated[str, AfterValidator(_check_tokens)]
Account = Annotated[str, AfterValidator(_check_account)]
Url = Annotated[str, AfterValidator(_check_url)]
OptionalUrl = Annotated[str, AfterValidator(lambda url: _check_url(url) if url else url)]
Multiaddress = Annotated[str, AfterValidator(_check_multiaddr)]
OptionalMultiaddress = Annotated[str, AfterValidator(lambda text: _check_multiaddr(text) if text else text)]
ServerPlace = Annotated[str, AfterValidator(_check_place)]
Host = Annotated[str, AfterValidator(_check_host)]
Port = Annotated[int, Field(ge=0, le=65535)]
