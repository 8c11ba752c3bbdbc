"""Receipts: what both sides sign of one answer, and who signed it.

Goals: whoever holds a receipt and the answer's tokens can re-derive every hash in it without asking anybody. Non-goals:
to prove what was paid; that is what vouchers and the chain are for.
"""

import hashlib
from dataclasses import replace

from node.protocol.canonical import encode
from node.protocol.codec import ARRAY_OF_FOUR, to_bytes
from node.protocol.identifiers import Address, Hash32
from node.protocol.pricing import receipt_digest
from node.protocol.records import SignedReceipt
from node.protocol.sampling import SamplingParameters
from node.protocol.signatures import SignatureError, recover


def draw_commitment(sampling: SamplingParameters, seed: int, stop: tuple[str, ...], response_format: str) -> Hash32:
    """Return the commitment to how the tokens of an answer were drawn."""
    packed = to_bytes(sampling) + encode(seed) + encode(stop) + encode(response_format)
    return Hash32(hashlib.sha256(ARRAY_OF_FOUR + packed).digest())


def is_signed_by_executor(signed: SignedReceipt) -> bool:
    """Whether the executor that the receipt names has signed it."""
    return _is_signed_by(signed, signed.receipt.executor, signed.signature)


def is_signed_by_payer(signed: SignedReceipt) -> bool:
    """Whether the payer that the receipt names has signed it."""
    return _is_signed_by(signed, signed.receipt.payer, signed.payer_signature)


def countersigned(signed: SignedReceipt, payer_signature: bytes) -> SignedReceipt:
    """Return the receipt with the payer's signature, which is not checked here."""
    return replace(signed, payer_signature=payer_signature)


def _is_signed_by(signed: SignedReceipt, account: Address, signature: bytes) -> bool:
    try:
        return recover(receipt_digest(signed.receipt), signature) == account
    except SignatureError:
        return False
