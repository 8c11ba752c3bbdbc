"""What gateway and executor say to each other during a call of `infer`. Canonical bytes; schema before meaning."""

from dataclasses import dataclass
from typing import cast

import msgpack
from eth_hash.auto import keccak

from node.protocol.asking import REQUEST_BYTES_MAX, asking_digest
from node.protocol.canonical import encode
from node.protocol.codec import ARRAY_OF_FOUR, SchemaError, from_bytes, to_bytes
from node.protocol.identifiers import Address, EpochNumber, Hash32, ModelId, RequestId, TokenAmount
from node.protocol.records import Asking, SignedReceipt, Voucher
from node.protocol.sampling import SEED_MAX, SamplingParameters, TokenLogprobs
from node.protocol.seeds import SeedShare

METHOD = "infer/3"
"""Its third version: what is signed of a request can be shown without it."""
MESSAGES_MAX = 256
PAYMENT_BYTES_MAX = 4096
"""A voucher and two signatures take a tenth of it."""
STOPS_MAX = 16
SALT_BYTES = 16
ROLES = frozenset({"system", "user", "assistant", "tool"})
LOGPROBS_MAX = 20
"""Alternatives per token, as in OpenAI's API."""
PROMPT_IDS_MAX = 1 << 17
JSON_CHARACTERS_MAX = 128 * 1024
"""Of tools, of a response's format, of the tool calls in one message."""
TOKENS_PACKER = msgpack.Packer(use_bin_type=True)
"""One for all, in one thread: a new one for each piece would cost more than the packing."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation."""

    role: str
    content: str
    name: str = ""
    """Of a participant or, in a message of role `tool`, of the function."""
    tool_call_id: str = ""
    """Which call a message of role `tool` answers."""
    tool_calls: str = ""
    """Calls that the assistant made: a JSON array in OpenAI's shape, or empty."""

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"role {self.role[:20]!r} is none of {', '.join(sorted(ROLES))}")
        if len(self.tool_calls) > JSON_CHARACTERS_MAX:
            raise ValueError(f"tool_calls has at most {JSON_CHARACTERS_MAX} characters")


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is to be answered: a conversation, a text to go on with, or token ids. Exactly one of them."""

    turns: tuple[Turn, ...] = ()
    tools: str = ""
    """Functions that the model may call: a JSON array in OpenAI's shape, or empty. Only with `turns`."""
    text: str | None = None
    token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        given = (bool(self.turns), self.text is not None, bool(self.token_ids))
        checks = (
            (sum(given) == 1, "a prompt is messages, a text or token ids"),
            (len(self.turns) <= MESSAGES_MAX, f"1 to {MESSAGES_MAX} messages"),
            (len(self.token_ids) <= PROMPT_IDS_MAX, f"at most {PROMPT_IDS_MAX} token ids"),
            (all(token >= 0 for token in self.token_ids), "token ids are not negative"),
            (len(self.tools) <= JSON_CHARACTERS_MAX, f"tools has at most {JSON_CHARACTERS_MAX} characters"),
            (bool(self.turns) or not self.tools, "tools go with messages"),
        )
        for holds, rule in checks:
            if not holds:
                raise ValueError(rule)

    @property
    def text_bytes(self) -> int:
        """Bytes of all text in it: no honest tokenizer makes more tokens of it, chat template apart."""
        texts = [self.text or "", self.tools]
        texts += [part for turn in self.turns for part in (turn.content, turn.name, turn.tool_call_id, turn.tool_calls)]
        return sum(len(text.encode()) for text in texts)


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
    epoch: EpochNumber
    """The present one, as far as the payer knows."""
    prompt: Prompt
    prefix: tuple[int, ...]
    """Tokens of the answer that another executor gave before it failed: the answer goes on after them."""
    max_tokens: int
    """Output tokens wanted from this executor."""
    sampling: SamplingParameters
    seed: int | None
    """Given by the user; None: drawn by payer and executor together."""
    stop: tuple[str, ...]
    logprobs: int | None
    """Alternatives per token whose log-probabilities are wanted; 0 for those of the tokens alone, None for none."""
    response_format: str
    """What the answer must look like: JSON in OpenAI's shape of `response_format`, or empty."""
    seed_commitment: Hash32 | None = None
    """Names the executor's secret that its half of the seed is made with."""
    seed_share: SeedShare | None = None
    """The half of the executor that began the answer: it goes on with the same seed."""
    free: bool = False
    """It asks to be served free of charge; only an executor in free mode does so, and it does nothing else."""
    private: bool = False
    """The executor keeps and publishes nothing of it beyond what both need for the receipt."""
    salt: bytes = b""
    """Random, and never announced: what is announced of the prompt commits to it as well."""

    def __post_init__(self) -> None:
        sources = (self.seed, self.seed_commitment, self.seed_share)
        checks = (
            (sum(source is not None for source in sources) <= 1, "a seed comes from one place"),
            (self.seed_commitment is None or len(self.seed_commitment) == 32, "a seed's commitment has 32 bytes"),
            (len(self.request_id) == 32, "request_id has 32 bytes"),
            (len(self.salt) in (0, SALT_BYTES), f"salt has {SALT_BYTES} bytes"),
            (len(self.stop) <= STOPS_MAX, f"at most {STOPS_MAX} stop texts"),
            (self.max_tokens > 0, "max_tokens is at least 1"),
            (self.seed is None or 0 <= self.seed <= SEED_MAX, "seed is 0 to 2^63-1"),
            (all(token >= 0 for token in self.prefix), "token ids are not negative"),
            (self.logprobs is None or 0 <= self.logprobs <= LOGPROBS_MAX, f"logprobs is 0 to {LOGPROBS_MAX}"),
            (
                len(self.response_format) <= JSON_CHARACTERS_MAX,
                f"response_format has at most {JSON_CHARACTERS_MAX} characters",
            ),
        )
        for holds, rule in checks:
            if not holds:
                raise ValueError(rule)

    @property
    def is_within_rule(self) -> bool:
        """Whether there is a rule that gives the tokens asked for: a format bars tokens, which no auditor knows."""
        return self.sampling.is_verifiable and not self.response_format


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A request with the payer's signature: only who pays may ask."""

    request: InferenceRequest
    signature: bytes


@dataclass(frozen=True, slots=True)
class SignedVoucherFrame:
    """A voucher as it travels."""

    voucher: Voucher
    signature: bytes


@dataclass(frozen=True, slots=True)
class Payment:
    """What a gateway sends during a call: a voucher, its signature of the receipt, or both."""

    voucher: SignedVoucherFrame | None
    """None in free mode: nothing is owed."""
    paid: TokenAmount
    """What this call was paid in all, with this voucher: vouchers are totals over all answers of the payer."""
    receipt_signature: bytes
    """The payer's over the receipt of the closing; empty before. With it, this answer is paid as the receipt says."""

    def __post_init__(self) -> None:
        if self.voucher is None and not self.receipt_signature:
            raise ValueError("a payment has a voucher, a receipt's signature or both")


@dataclass(frozen=True, slots=True)
class Opening:
    """The executor's first word: what it will charge for the prompt, and where the channel stands in its books."""

    prompt_ids: tuple[int, ...]
    """All tokens that are read: chat template, messages and prefix."""
    unpaid_tokens_max: int
    newest_voucher: SignedVoucherFrame | None
    """Lets a payer that lost its books go on: it checks its own signature."""
    seed_share: SeedShare | None = None
    """Half of the seed, unless the user gave it: this executor's, or the one that the request handed on."""
    by_rule: bool = True
    """Whether its engine draws by the network's rule: if not, no audit can check the answer, and the receipt says
    so."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """A piece of the answer."""

    token_ids: tuple[int, ...]
    text: str
    finish_reason: str
    """Empty until the last piece."""
    logprobs: tuple[TokenLogprobs, ...] = ()
    """One for each token, if they were asked for."""


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
    if tokens.logprobs:
        return to_bytes(ExecutorFrame(None, tokens, None))
    return plain_tokens_bytes(tokens.token_ids, tokens.text, tokens.finish_reason)


def plain_tokens_bytes(token_ids: tuple[int, ...], text: str, finish_reason: str = "") -> bytes:
    """Return a piece of the answer on the wire that has no log-probabilities.

    Spelled out, for there is one for nearly every token: keys are in canonical order, and the engine's client made sure
    of the types.
    """
    said = {"finish_reason": finish_reason, "logprobs": (), "text": text, "token_ids": token_ids}
    return cast(bytes, TOKENS_PACKER.pack({"closing": None, "opening": None, "tokens": said}))


def closing_bytes(closing: Closing) -> bytes:
    """Return a closing on the wire."""
    return to_bytes(ExecutorFrame(None, None, closing))


def asking_of(request: InferenceRequest) -> Asking:
    """Return what the payer signs of a request, as its receipt has it."""
    return Asking(request.epoch, request.max_tokens, Hash32(keccak(to_bytes(request))), request.private)


def request_digest(request: InferenceRequest) -> Hash32:
    """Return what the payer signs."""
    return asking_digest(request.request_id, request.model_id, request.payer, request.executor, asking_of(request))


def read_request(payload: bytes) -> SignedRequest:
    """Read a request: size, then schema. Raises SchemaError."""
    if len(payload) > REQUEST_BYTES_MAX:
        raise SchemaError(f"a request of {len(payload)} bytes is over {REQUEST_BYTES_MAX}")
    return from_bytes(SignedRequest, payload)


def read_payment(payload: bytes) -> Payment:
    """Read a payment: size, then schema. Raises SchemaError."""
    if len(payload) > PAYMENT_BYTES_MAX:
        raise SchemaError(f"a payment of {len(payload)} bytes is over {PAYMENT_BYTES_MAX}")
    return from_bytes(Payment, payload)


def prompt_commitment_of(request: InferenceRequest) -> Hash32:
    """Return what is announced of a prompt before it is tokenized.

    The id is announced with it, so it is the salt, which only payer and executor know, that keeps whoever guesses a
    prompt from recognising it.
    """
    # The canonical bytes of an array of these four; the prompt's, which may be long, are made the quick way.
    parts = (encode("quern-prompt"), encode(request.request_id), encode(request.salt), to_bytes(request.prompt))
    return Hash32(keccak(ARRAY_OF_FOUR + b"".join(parts)))
