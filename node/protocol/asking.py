"""What a payer signed when it asked an executor, shown without the request: nobody's word is needed for who asked.

Purpose: whoever is audited must not choose who paid, and whoever paid must not choose what is audited. A payer's
signature of the *receipt* decides neither: when it came the two sides alone know, and a payer may keep it back. That of
the *request* was there before the first token. So a receipt carries what was signed of its request (`Asking`), from
which everybody derives the digest that the payer signed, and books have a row for each such digest (receipt_books.py).

Detail: a request names its executor, its time and an id of 32 random bytes, and an executor serves it once: one digest,
one answer. Who is asked again for the rest of an answer is asked by another request. What was not asked by such a
request (prompts that nobody streams, those on chain) has no asking, and stands under its receipt's digest.
"""

from node.protocol.canonical import keccak_digest
from node.protocol.identifiers import Address, Hash32, ModelId, RequestId
from node.protocol.pricing import receipt_digest
from node.protocol.records import Asking, Receipt
from node.protocol.signatures import SignatureError, recover

REQUEST_BYTES_MAX = 255 * 1024
"""A request travels in one frame; longer conversations do not fit any model's context anyway."""
CLOCK_EPOCHS_MAX = 1
"""How far apart payer and executor may be on the chain: one of both is late at an epoch's border."""
ANSWER_EPOCHS_MAX = 1
"""From the epoch a request names to that of its receipt: one border may come during an answer. A payer takes no receipt
of another epoch, for in which books one has to be follows from its epoch (due_books.py), and books have none that is
later: else an executor would give receipts of today for all that a payer ever asked in vain."""


def asking_digest(
    request_id: RequestId, model_id: ModelId, payer: Address, executor: Address, asking: Asking
) -> Hash32:
    """Return what the payer of a request signs."""
    said = [asking.epoch, asking.max_tokens, asking.is_private, asking.body]
    return keccak_digest(["quern-request", request_id, model_id, payer, executor, *said])


def booked_under(receipt: Receipt) -> Hash32:
    """Return the digest that a receipt's row stands under: what its payer signed, or its own where nothing was."""
    if receipt.asking is None:
        return receipt_digest(receipt)
    return asking_digest(receipt.request_id, receipt.model_id, receipt.payer, receipt.executor, receipt.asking)


def is_asked_by_payer(receipt: Receipt, signature: bytes) -> bool:
    """Whether the payer that a receipt names signed the request that it was given for."""
    try:
        return receipt.asking is not None and recover(booked_under(receipt), signature) == receipt.payer
    except SignatureError:
        return False


def is_of_its_time(receipt: Receipt) -> bool:
    """Whether a receipt's epoch may be that of an answer to its request; true where there was none."""
    return receipt.asking is None or -CLOCK_EPOCHS_MAX <= receipt.epoch - receipt.asking.epoch <= ANSWER_EPOCHS_MAX


def is_too_old(receipt: Receipt) -> bool:
    """Whether what was asked was so long ago when it was answered that the answer may stand in no book."""
    return receipt.asking is not None and receipt.epoch - receipt.asking.epoch > ANSWER_EPOCHS_MAX
