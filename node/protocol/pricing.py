"""What an answer costs and how a channel remembers what it paid for."""

from collections.abc import Sequence

from eth_hash.auto import keccak

from node.protocol.canonical import keccak_digest, sha256_digest
from node.protocol.codec import tagged_bytes
from node.protocol.identifiers import Hash32, TokenAmount
from node.protocol.records import ModelRecord, Receipt


def price(prompt_tokens: int, output_tokens: int, model: ModelRecord, unit_price: TokenAmount) -> TokenAmount:
    """Return the price of an answer; every token counts the same, read or written."""
    return TokenAmount((prompt_tokens + output_tokens) * model.units_of_compute_per_token * unit_price)


def tokens_commitment(token_ids: Sequence[int]) -> Hash32:
    """Return the commitment to a sequence of token ids."""
    return sha256_digest(list(token_ids))


def receipt_digest(receipt: Receipt) -> Hash32:
    """Return what the executor signs."""
    return Hash32(keccak(tagged_bytes("quern-receipt", receipt)))


def next_receipts_root(previous: Hash32, receipt: Receipt) -> Hash32:
    """Return the running hash of a channel's receipts after one more; it starts at 32 zero bytes."""
    return keccak_digest(["quern-receipts", previous, receipt_digest(receipt)])
