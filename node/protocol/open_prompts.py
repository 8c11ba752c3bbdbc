"""Open prompts: who may answer one, when, and which one answer is paid.

Goals: exactly one answer is paid, in whatever order answers arrive; normally only one executor works; every observer of
the same messages names the same winner. Non-goals: delivery (prompt and answer are content by CID), the payment itself.

A payer posts a prompt with the executors that were drawn for it, in the order of the weighted rendezvous over the
epoch group; it may leave out some (absent, or without a channel from it), never change their order. Each has a turn:
the first from the post on, the next when that is over, and so on. Turns do not overlap: no two answers are ever in turn
at once. An answer out of its executor's turn is not paid, whoever sees it first. The payer decides on an answer of a
later turn only when earlier ones must have arrived: so what it pays is what anybody computes with `winning_answer`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from node.protocol.identifiers import Address, Cid, EpochNumber, ModelId, RequestId, TokenAmount
from node.protocol.pricing import price
from node.protocol.receipts import is_signed_by_executor
from node.protocol.records import EpochGroup, ModelRecord, SignedReceipt
from node.protocol.routing import rank_executors

DRAWN_MAX = 8
"""Executors named in one prompt. More would make a prompt live for longer than anybody waits."""
TURN_SECONDS_MIN = 15
"""Shorter turns would be lost to clocks that differ (see ARRIVAL_SECONDS_MAX) and to fetching the prompt."""
TURN_SECONDS_MAX = 600
TOKENS_PER_SECOND_MIN = 8
"""What the slowest executor is expected to give: it decides how long a turn is by default."""
ARRIVAL_SECONDS_MAX = 5
"""How long after it was made an answer may arrive. Gossip takes about a second; honest clocks agree to less than the
rest. An answer that took longer might have been dated back."""
MAX_TOKENS_LIMIT = 1_000_000
"""As on chain: more would not fit any model's context."""
REPLY_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class OpenPrompt:
    """Whoever is first in turn may answer this. Sent by who pays; its time is that of the message."""

    request_id: RequestId
    epoch: EpochNumber
    """Whose group the draw is over."""
    model_id: ModelId
    prompt_cid: Cid
    """Text and sampling parameters: the CID commits to both."""
    max_tokens: int
    """Prompt and output together: what is paid for at most."""
    price_limit: TokenAmount
    drawn: tuple[Address, ...]
    """Who may answer, in the order of their turns."""
    turn_seconds: int
    reply_key: bytes
    """X25519 key that the answer is sealed to; empty if prompt and answer are public."""

    def __post_init__(self) -> None:
        checks = (
            (len(self.request_id) == 32, "request_id has 32 bytes"),
            (0 < len(self.drawn) <= DRAWN_MAX, f"1 to {DRAWN_MAX} executors are drawn"),
            (len(set(self.drawn)) == len(self.drawn), "nobody is drawn twice"),
            (0 < self.max_tokens <= MAX_TOKENS_LIMIT, f"max_tokens is 1 to {MAX_TOKENS_LIMIT}"),
            (self.price_limit >= 0, "price_limit is not negative"),
            (
                TURN_SECONDS_MIN <= self.turn_seconds <= TURN_SECONDS_MAX,
                f"a turn has {TURN_SECONDS_MIN} to {TURN_SECONDS_MAX} seconds",
            ),
            (len(self.reply_key) in (0, REPLY_KEY_BYTES), f"reply_key has {REPLY_KEY_BYTES} bytes, or none"),
        )
        for holds, rule in checks:
            if not holds:
                raise ValueError(rule)

    @property
    def is_sealed(self) -> bool:
        """Whether only the drawn can read the prompt, and only the payer the answer."""
        return bool(self.reply_key)


@dataclass(frozen=True, slots=True)
class OpenAnswer:
    """An answer to an open prompt. Sent by its executor; its time is that of the message."""

    result_cid: Cid
    receipt: SignedReceipt
    """Names the request, the payer, the counts and the price."""


@dataclass(frozen=True, slots=True)
class Posted:
    """An open prompt as it was posted."""

    payer: Address
    at: int
    """UNIX seconds."""
    prompt: OpenPrompt

    @property
    def deadline(self) -> int:
        """UNIX seconds at which the last turn is over."""
        return self.at + self.prompt.turn_seconds * len(self.prompt.drawn)


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer as it was sent."""

    executor: Address
    at: int
    """UNIX seconds."""
    answer: OpenAnswer


@dataclass(frozen=True, slots=True)
class Turn:
    """When an executor may answer: UNIX seconds, `end` exclusive."""

    index: int
    begin: int
    end: int


class AnswerFault(Enum):
    """Why an answer is not paid."""

    NOT_DRAWN = "its executor was not drawn"
    OUT_OF_TURN = "it was given outside its executor's turn"
    OTHER_REQUEST = "its receipt is for another request, payer, executor, epoch or model"
    OVERPRICED = "it has more tokens, or costs more, than was offered or is right"
    BAD_SIGNATURE = "its receipt was not signed by its executor"


def draw_order(request_id: RequestId, group: EpochGroup, model_id: ModelId) -> tuple[Address, ...]:
    """Return all participants that serve the model, in the order in which they are drawn for the request."""
    return tuple(dict.fromkeys(choice.participant for choice in rank_executors(request_id, group, model_id)))


def keeps_order(drawn: Sequence[Address], order: Iterable[Address]) -> bool:
    """Whether `drawn` is `order` with some left out."""
    left = iter(order)
    return all(executor in left for executor in drawn)  # `in` consumes: each is looked for after the one before


def default_turn_seconds(max_tokens: int) -> int:
    """Return a turn that is long enough for slow executors."""
    return min(TURN_SECONDS_MAX, TURN_SECONDS_MIN + max_tokens // TOKENS_PER_SECOND_MIN)


def turn_of(posted: Posted, executor: Address) -> Turn | None:
    """Return when `executor` may answer; None if it was not drawn."""
    prompt = posted.prompt
    if executor not in prompt.drawn:
        return None
    index = prompt.drawn.index(executor)
    begin = posted.at + index * prompt.turn_seconds
    return Turn(index, begin, begin + prompt.turn_seconds)


def decided_from(turn: Turn) -> int:
    """Return when (UNIX seconds) an answer of this turn may be paid: all answers of earlier turns have arrived.

    None comes before the first turn, so that its answer may be paid at once.
    """
    return turn.begin if turn.index == 0 else turn.begin + ARRIVAL_SECONDS_MAX


def answer_fault(posted: Posted, answered: Answered, model: ModelRecord, unit_price: TokenAmount) -> AnswerFault | None:
    """Return why an answer is not to be paid, as far as messages tell; None if it is good. `model`: of the epoch."""
    turn = turn_of(posted, answered.executor)
    if turn is None:
        return AnswerFault.NOT_DRAWN
    if not turn.begin <= answered.at < turn.end:
        return AnswerFault.OUT_OF_TURN
    prompt, receipt = posted.prompt, answered.answer.receipt.receipt
    stated = (receipt.request_id, receipt.payer, receipt.executor, receipt.epoch, receipt.model_id, receipt.model_cid)
    asked = (prompt.request_id, posted.payer, answered.executor, prompt.epoch, prompt.model_id, model.cid)
    if stated != asked:
        return AnswerFault.OTHER_REQUEST
    tokens = receipt.prompt_tokens + receipt.output_tokens
    right = price(receipt.prompt_tokens, receipt.output_tokens, model, unit_price)
    if receipt.prompt_tokens < 1 or receipt.output_tokens < 1 or tokens > prompt.max_tokens:
        return AnswerFault.OVERPRICED
    if receipt.price != right or receipt.price > prompt.price_limit:
        return AnswerFault.OVERPRICED
    return None if is_signed_by_executor(answered.answer.receipt) else AnswerFault.BAD_SIGNATURE


def winning_answer(
    posted: Posted, answers: Iterable[Answered], model: ModelRecord, unit_price: TokenAmount
) -> Answered | None:
    """Return the one answer that is paid, the same for any order of `answers`; None if none is good.

    Of the earliest turn; of several by its executor, the one made first.
    """
    good = [answered for answered in answers if answer_fault(posted, answered, model, unit_price) is None]
    return min(good, key=lambda answered: _precedence(posted, answered), default=None)


def _precedence(posted: Posted, answered: Answered) -> tuple[int, int, str]:
    return posted.prompt.drawn.index(answered.executor), answered.at, answered.answer.result_cid
