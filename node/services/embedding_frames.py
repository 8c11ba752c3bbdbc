"""What gateway and executor say to each other during a call of `embed`. Canonical bytes; schema before meaning.

Goals: vectors arrive as the engine made them, bit by bit; the price is exact; one voucher pays a small request; who
asked for what can be shown in an audit (asking.py). Non-goals: streaming (a vector is whole or nothing).
"""

from dataclasses import dataclass

from eth_hash.auto import keccak

from node.protocol.asking import REQUEST_BYTES_MAX, asking_digest
from node.protocol.codec import SchemaError, from_bytes, to_bytes
from node.protocol.identifiers import Address, EpochNumber, Hash32, ModelId, RequestId
from node.protocol.records import Asking, SignedReceipt
from node.protocol.sketches import FLOAT_BYTES, INPUTS_MAX
from node.services.frames import SignedVoucherFrame

METHOD = "embed/2"
DIMENSIONS_MAX = 16_384
SPECIAL_TOKENS_MAX = 8
"""Tokens that a tokenizer may add to an input. With it, an executor cannot charge for an input nobody gave."""
VECTORS_BYTES_MAX = 192 * 1024
"""Of the vectors in one frame; the network carries up to 256 KiB."""


@dataclass(frozen=True, slots=True)
class EmbeddingInput:
    """What is to become one vector: a text or token ids."""

    text: str | None = None
    token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if (self.text is not None) == bool(self.token_ids):
            raise ValueError("an input is a text or token ids")
        if self.text == "":
            raise ValueError("an input is not empty")
        if any(token < 0 for token in self.token_ids):
            raise ValueError("token ids are not negative")

    @property
    def weight(self) -> int:
        """Bytes of text or number of ids: no honest tokenizer makes more tokens of it, special ones apart."""
        return len(self.token_ids) if self.text is None else len(self.text.encode())


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """A request of a payer to one executor."""

    request_id: RequestId
    model_id: ModelId
    payer: Address
    executor: Address
    at: int
    """UNIX seconds."""
    epoch: EpochNumber
    """In which it is asked, as far as the payer knows."""
    inputs: tuple[EmbeddingInput, ...]
    free: bool = False
    """Whether it is asked for free of charge (see node.services.terms)."""
    private: bool = False
    """Whether the executor is to keep nothing of it, so that nobody audits it."""

    def __post_init__(self) -> None:
        if len(self.request_id) != 32:
            raise ValueError("request_id has 32 bytes")
        if not 0 < len(self.inputs) <= INPUTS_MAX:
            raise ValueError(f"1 to {INPUTS_MAX} inputs")

    @property
    def tokens_max(self) -> int:
        """The most tokens that its inputs can have."""
        return sum(item.weight + SPECIAL_TOKENS_MAX for item in self.inputs)


@dataclass(frozen=True, slots=True)
class SignedEmbeddingRequest:
    """A request with the payer's signature: only who pays may ask."""

    request: EmbeddingRequest
    signature: bytes


@dataclass(frozen=True, slots=True)
class EmbeddingOpening:
    """The executor's first word: the tokens it will charge for, and where the channel stands in its books."""

    token_ids: tuple[tuple[int, ...], ...]
    """Of each input, in order."""
    unpaid_tokens_max: int
    """Tokens whose vectors it lets out before they are paid; what is beyond is paid first."""
    newest_voucher: SignedVoucherFrame | None


@dataclass(frozen=True, slots=True)
class Vectors:
    """The next vectors, in the order of the inputs."""

    dimensions: int
    data: bytes
    """float32, little-endian, one vector after the other."""

    def __post_init__(self) -> None:
        if not 0 < self.dimensions <= DIMENSIONS_MAX:
            raise ValueError(f"dimensions are 1 to {DIMENSIONS_MAX}")
        if not self.data or len(self.data) % (FLOAT_BYTES * self.dimensions):
            raise ValueError("a frame has whole vectors")


@dataclass(frozen=True, slots=True)
class EmbeddingFrame:
    """Exactly one of the executor's words. The last is the receipt."""

    opening: EmbeddingOpening | None
    vectors: Vectors | None
    receipt: SignedReceipt | None

    def __post_init__(self) -> None:
        if sum(part is not None for part in (self.opening, self.vectors, self.receipt)) != 1:
            raise ValueError("a frame says exactly one thing")


def embedding_opening_bytes(opening: EmbeddingOpening) -> bytes:
    """Return an opening on the wire."""
    return to_bytes(EmbeddingFrame(opening, None, None))


def vectors_bytes(vectors: Vectors) -> bytes:
    """Return some vectors on the wire."""
    return to_bytes(EmbeddingFrame(None, vectors, None))


def embedding_receipt_bytes(receipt: SignedReceipt) -> bytes:
    """Return the receipt on the wire."""
    return to_bytes(EmbeddingFrame(None, None, receipt))


def embedding_asking(request: EmbeddingRequest) -> Asking:
    """Return what the payer signs of a request, as its receipt has it."""
    return Asking(request.epoch, request.tokens_max, Hash32(keccak(to_bytes(request))), request.private)


def embedding_digest(request: EmbeddingRequest) -> Hash32:
    """Return what the payer signs."""
    asking = embedding_asking(request)
    return asking_digest(request.request_id, request.model_id, request.payer, request.executor, asking)


def read_embedding_request(payload: bytes) -> SignedEmbeddingRequest:
    """Read a request: size, then schema. Raises SchemaError."""
    if len(payload) > REQUEST_BYTES_MAX:
        raise SchemaError(f"a request of {len(payload)} bytes is over {REQUEST_BYTES_MAX}")
    return from_bytes(SignedEmbeddingRequest, payload)
