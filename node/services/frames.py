"""What gateway and executor say to each other during a call of `infer`. Canonical bytes; schema before meaning."""

from dataclasses import dataclass

from node.protocol.canonical import keccak_digest
from node.protocol.codec import SchemaError, from_bytes, to_bytes, to_value
from node.protocol.identifiers import Address, Hash32, ModelId, RequestId
from node.protocol.records import SignedReceipt, Voucher

METHOD = "infer"
REQUEST_BYTES_MAX = 255 * 1024
"""A request travels in one frame; longer conversations do not fit any model's context anyway."""
MESSAGES_MAX = 256
STOPS_MAX = 16
ROLES = frozenset({"system", "user", "assistant"})
TEMPERATURE_MILLI_MAX = 2000
PER_MILLE = 1000
SEED_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation."""

    role: str
    content: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"role {self.role[:20]!r} is none of {', '.join(sorted(ROLES))}")


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """A request of a payer to one executor."""

    request_id: RequestId
    """32 random bytes of the gateway's; the same for every executor that is asked in turn."""
    model_id: ModelId
    payer: Address
    executor: Address
    at: int
    """UNIX seconds."""
    turns: tuple[Turn, ...]
    prefix: tuple[int, ...]
    """Tokens of the answer that another executor gave before it failed: the answer goes on after them."""
    max_tokens: int
    """Output tokens wanted from this executor."""
    temperature_milli: int
    top_p_milli: int
    seed: int
    stop: tuple[str, ...]

    def __post_init__(self) -> None:
        checks = (
            (len(self.request_id) == 32, "request_id has 32 bytes"),
            (0 < len(self.turns) <= MESSAGES_MAX, f"1 to {MESSAGES_MAX} messages"),
            (len(self.stop) <= STOPS_MAX, f"at most {STOPS_MAX} stop texts"),
            (self.max_tokens > 0, "max_tokens is at least 1"),
            (0 <= self.temperature_milli <= TEMPERATURE_MILLI_MAX, "temperature is 0 to 2"),
            (0 < self.top_p_milli <= PER_MILLE, "top_p is above 0, at most 1"),
            (0 <= self.seed <= SEED_MAX, "seed is 0 to 2^63-1"),
            (all(token >= 0 for token in self.prefix), "token ids are not negative"),
        )
        for holds, rule in checks:
            if not holds:
                raise ValueError(rule)


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A request with the payer's signature: only who pays may ask."""

    request: InferenceRequest
    signature: bytes


@dataclass(frozen=True, slots=True)
class SignedVoucherFrame:
    """A voucher on its way to the executor."""

    voucher: Voucher
    signature: bytes


@dataclass(frozen=True, slots=True)
class Opening:
    """The executor's first word: what it will charge for the prompt, and where the channel stands in its books."""

    prompt_ids: tuple[int, ...]
    """All tokens that are read: chat template, messages and prefix."""
    unpaid_tokens_max: int
    newest_voucher: SignedVoucherFrame | None
    """Lets a payer that lost its books go on: it checks its own signature."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """A piece of the answer."""

    token_ids: tuple[int, ...]
    text: str
    finish_reason: str
    """Empty until the last piece."""


@dataclass(frozen=True, slots=True)
class Closing:
    """The executor's last word."""

    receipt: SignedReceipt


@dataclass(frozen=True, slots=True)
class ExecutorFrame:
    """Exactly one of the executor's words."""

    opening: Opening | None
    tokens: Tokens | None
    closing: Closing | None

    def __post_init__(self) -> None:
        if sum(part is not None for part in (self.opening, self.tokens, self.closing)) != 1:
            raise ValueError("a frame says exactly one thing")


def opening_bytes(opening: Opening) -> bytes:
    """Return an opening on the wire."""
    return to_bytes(ExecutorFrame(opening, None, None))


def tokens_bytes(tokens: Tokens) -> bytes:
    """Return a piece of the answer on the wire."""
    return to_bytes(ExecutorFrame(None, tokens, None))


def closing_bytes(closing: Closing) -> bytes:
    """Return a closing on the wire."""
    return to_bytes(ExecutorFrame(None, None, closing))


def request_digest(request: InferenceRequest) -> Hash32:
    """Return what the payer signs."""
    return keccak_digest(["quern-request", to_value(request)])


def read_request(payload: bytes) -> SignedRequest:
    """Read a request: size, then schema. Raises SchemaError."""
    if len(payload) > REQUEST_BYTES_MAX:
        raise SchemaError(f"a request of {len(payload)} bytes is over {REQUEST_BYTES_MAX}")
    return from_bytes(SignedRequest, payload)


def prompt_commitment_of(request: InferenceRequest) -> Hash32:
    """Return what is announced of a prompt before it is tokenized, without revealing it (the id is random)."""
    return keccak_digest(["quern-prompt", request.request_id, [to_value(turn) for turn in request.turns]])
