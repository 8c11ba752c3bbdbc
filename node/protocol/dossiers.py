"""A receipt with what is needed to check it, as it is kept, exported and verified.

Goals: whoever holds a dossier can re-derive every hash and signature in it offline, with nothing but this program; with
the chain, its price and its payment; with the model, its tokens. Non-goals: to hide anything. A dossier with its answer
holds the whole conversation; export it without if that is nobody's business.
"""

import json
import re
from dataclasses import dataclass

from pydantic_core import from_json

from node.protocol.codec import SchemaError
from node.protocol.identifiers import Address
from node.protocol.json_records import from_json_value, to_json_value
from node.protocol.records import UINT64_MAX, SignedReceipt, Voucher
from node.protocol.sampling import SamplingParameters
from node.protocol.seeds import SeedShare

FORMAT = "quern-receipts/1"
FILE_BYTES_MAX = 64 * 1024 * 1024
"""A file of receipts; more is none, or should be exported in parts."""
ACCOUNT = re.compile("0x[0-9a-fA-F]{40}")
DOSSIERS_MAX = 10_000
"""In one file."""


@dataclass(frozen=True, slots=True)
class AnswerEvidence:
    """What the commitments of a receipt are to: the user's own prompt and answer, and how it was drawn."""

    prompt_ids: tuple[int, ...]
    output_ids: tuple[int, ...]
    text: str
    """As the user got it; for people. What is checked are the tokens."""
    sampling: SamplingParameters
    seed: int
    seed_share: SeedShare | None
    """The executor's half of the seed; None where the user gave it."""
    stop: tuple[str, ...]
    response_format: str


@dataclass(frozen=True, slots=True)
class VectorEvidence:
    """What the commitments of a receipt over vectors are to (sketches.py)."""

    inputs: tuple[tuple[int, ...], ...]
    """Token ids of each."""
    dimensions: int
    sketches: bytes
    """Of each vector, one after the other."""


@dataclass(frozen=True, slots=True)
class Covering:
    """A voucher of the payer that was newest when the dossier was made."""

    voucher: Voucher
    signature: bytes


@dataclass(frozen=True, slots=True)
class Dossier:
    """A receipt, and what of its evidence is at hand."""

    chain_id: int
    payment_channels: Address
    signed: SignedReceipt
    answer: AnswerEvidence | None
    covering: Covering | None
    vectors: VectorEvidence | None = None
    """In place of an answer in tokens."""

    def __post_init__(self) -> None:
        receipt = self.signed.receipt
        if not 0 <= self.chain_id <= UINT64_MAX:
            raise ValueError("a chain id is not negative, and has 64 bits")
        for account in (self.payment_channels, receipt.payer, receipt.executor):
            if not ACCOUNT.fullmatch(account):
                raise ValueError(f"{account[:60]!r} is no account")


def dossiers_to_json(dossiers: tuple[Dossier, ...]) -> str:
    """Return the text of a receipts file."""
    return json.dumps({"format": FORMAT, "receipts": [to_json_value(dossier) for dossier in dossiers]}, indent=1)


def dossiers_from_json(text: str) -> tuple[Dossier, ...]:
    """Read a receipts file. Raises SchemaError, which says what is wrong with it."""
    if len(text) > FILE_BYTES_MAX:
        raise SchemaError(f"the file is over {FILE_BYTES_MAX} bytes")
    try:
        document = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise SchemaError(f"not JSON: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise SchemaError(f"not a file of receipts: its format is not {FORMAT}")
    entries = document.get("receipts")
    if not isinstance(entries, list) or not 0 < len(entries) <= DOSSIERS_MAX:
        raise SchemaError(f"a file has 1 to {DOSSIERS_MAX} receipts")
    return tuple(from_json_value(Dossier, entry) for entry in entries)
