"""What calls for answers in words and calls for vectors have in common: who may ask, and what is told when it fails."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import structlog

from node.ports import CallFailedError, Chain, EngineFailedError, EngineRefusedError, Store
from node.protocol.asking import CLOCK_EPOCHS_MAX
from node.protocol.codec import SchemaError
from node.protocol.identifiers import Hash32
from node.protocol.records import ModelRecord
from node.protocol.signatures import SignatureError, recover
from node.services.broker import Broker
from node.services.embedding_frames import EmbeddingRequest, SignedEmbeddingRequest
from node.services.epochs import EpochBook
from node.services.frames import InferenceRequest, SignedRequest
from node.services.groups import sole_error
from node.services.paid_calls import GatewayGoneError
from node.services.tabs import PayeeBook, Tab
from node.services.timing import position

log = structlog.get_logger(__name__)


Asked = InferenceRequest | EmbeddingRequest
Signed = TypeVar("Signed", SignedRequest, SignedEmbeddingRequest)


def read_signed(
    payload: bytes, read: Callable[[bytes], Signed], digest: Callable[[Signed], Hash32], chain: Chain
) -> Signed:
    """Return the request in `payload`: size, schema, signature, then meaning. Raises CallFailedError.

    `read` and `digest`, which the payer signs, are of the kind of call; they raise SchemaError and ValueError.
    """
    try:
        signed = read(payload)
        signer = recover(digest(signed), signed.signature)
    except (SchemaError, SignatureError, ValueError) as error:
        raise CallFailedError("bad-request", str(error)[:200]) from error
    request = signed.request
    if signer != request.payer:
        raise CallFailedError("bad-request", "the request was not signed by its payer")
    if request.executor != chain.account:
        raise CallFailedError("bad-request", "the request is for another executor")
    epoch = position(chain).epoch
    if abs(request.epoch - epoch) > CLOCK_EPOCHS_MAX:
        raise CallFailedError("stale", f"the request is of epoch {request.epoch}; here it is epoch {epoch}")
    return signed


def model_to_serve(request: Asked, epochs: EpochBook, broker: Broker) -> ModelRecord:
    """Return the model that is asked, if it can be served now. Raises CallFailedError."""
    model = epochs.group().get_epoch_model(request.model_id)
    if model is None:
        raise CallFailedError("unknown-model", f"{request.model_id} is not part of this epoch")
    refusal = broker.refusal(request.model_id, request.payer)
    if refusal is not None:
        raise refusal
    return model


@contextmanager
def answering(request: Asked, payments: PayeeBook, tab: Tab, store: Store) -> Iterator[None]:
    """Have the gateway told why an answer failed, and end its tab however it went.

    Raises CallFailedError for what the engine makes of it; a gateway that left is told nothing.
    """
    try:
        with sole_error():
            yield
    except EngineFailedError as error:
        why = type(error).__name__ if request.private else str(error)  # engines quote what they were given
        log.warning("a request failed with its engine", request=request.request_id.hex()[:8], reason=why)
        raise CallFailedError("engine-failed", "the engine failed") from error
    except EngineRefusedError as error:
        raise CallFailedError("bad-request", str(error)[:200]) from error
    except GatewayGoneError:
        log.debug("a gateway left before its answer was complete", request=request.request_id.hex()[:8])
    finally:
        payments.end(tab)
        if tab.receipt is not None and tab.settled is None:
            store.save_receipt(tab.receipt)  # evidence: given, and not paid or not signed for
