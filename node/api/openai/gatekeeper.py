"""Who may ask, how often, and for how much: API keys, their rates and their budgets.

Detail: without a file of keys an API on loopback is open, and so is one whose settings say so. A key's budget is never
overspent: before a request is asked, the most that it may cost is set aside, and when it ends the rest is given back.
Only a fail-over, where a second executor reads what a first one wrote, can cost more than was foreseen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import structlog

from node.amounts import amount_to_tokens
from node.api.keys import ApiKey, KeyBook
from node.api.openai.faults import ApiError
from node.api.openai.usage import Usage
from node.api.rates import Bucket
from node.ports import WallClock
from node.private_files import PrivateFileError
from node.protocol.identifiers import ModelId
from node.protocol.records import ModelRecord
from node.services.checks import reading_tokens_max
from node.services.gateway import ChatRequest
from node.store.key_spending import KeySpending, Spending, day_of

log = structlog.get_logger(__name__)

BYTES_PER_TOKEN = 4
"""Of common text, to guess a prompt's tokens for a rate; budgets count on the most there can be."""
OUTPUT_TOKENS_GUESSED = 256
"""Of an answer whose length nobody limited, for a rate; corrected when it has ended."""

TokenPrice = Callable[[ModelRecord], int]
"""Price of one token of a model, in base units."""
Clock = Callable[[], float]
"""Seconds that never go back."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever asks. Without a key nothing is counted."""

    key: ApiKey | None = None

    @property
    def name(self) -> str:
        """The key's name, for logs."""
        return "" if self.key is None else self.key.name


class Rates:
    """The buckets of the keys. They are in memory: a restart forgives a minute."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._buckets: dict[tuple[str, str, int], Bucket] = {}

    def wait_seconds(self, key: ApiKey, kind: str, per_minute: int | None, amount: float) -> float:
        """Return how long until `amount` of a kind can be had."""
        bucket = self._bucket(key, kind, per_minute)
        return 0.0 if bucket is None else bucket.wait_seconds(amount, self._clock())

    def take(self, key: ApiKey, kind: str, per_minute: int | None, amount: float) -> None:
        """Take it, or give it back if it is negative."""
        bucket = self._bucket(key, kind, per_minute)
        if bucket is not None:
            bucket.take(amount, self._clock())

    def headers(self, key: ApiKey) -> dict[str, str]:
        """Return what is left, as OpenAI's API tells it."""
        headers: dict[str, str] = {}
        for kind, per_minute in (("requests", key.requests_per_minute), ("tokens", key.tokens_per_minute)):
            bucket = self._bucket(key, kind, per_minute)
            if bucket is not None:
                full = bucket.wait_seconds(bucket.per_minute, self._clock())
                headers[f"x-ratelimit-limit-{kind}"] = str(bucket.per_minute)
                headers[f"x-ratelimit-remaining-{kind}"] = str(max(0, int(bucket.level)))
                headers[f"x-ratelimit-reset-{kind}"] = f"{full:.3f}s"
        return headers

    def keep_only(self, keys: Sequence[ApiKey]) -> None:
        """Forget the buckets of keys that are gone."""
        kept = {key.key_id for key in keys}
        if len(self._buckets) > 2 * len(kept):
            self._buckets = {place: bucket for place, bucket in self._buckets.items() if place[0] in kept}

    def _bucket(self, key: ApiKey, kind: str, per_minute: int | None) -> Bucket | None:
        if per_minute is None:
            return None
        place = (key.key_id, kind, per_minute)
        if place not in self._buckets:
            self._buckets[place] = Bucket.full(per_minute, self._clock())
        return self._buckets[place]


class Gatekeeper:
    """Lets requests in. One for all of a daemon's APIs."""

    def __init__(
        self,
        book: KeyBook,
        spending: KeySpending,
        token_price: TokenPrice,
        *,
        is_open: bool,
        wall_clock: WallClock,
        clock: Clock,
    ) -> None:
        """`is_open`: whoever comes may ask while there is no file of keys."""
        self._book = book
        self._spending = spending
        self._token_price = token_price
        self._is_open = is_open
        self._wall_clock = wall_clock
        self._rates = Rates(clock)

    def opens(self, presented: str) -> bool:
        """Whether an API key opens this gateway now."""
        try:
            key = self._book.find(presented)
        except PrivateFileError as error:
            log.error("the API keys cannot be read", reason=str(error))
            return False
        return key is not None and not key.is_expired(self._wall_clock())

    def identify(self, authorization: str) -> Caller:
        """Return who asks, by the header of that name. Raises ApiError 401, or 503 if the keys cannot be read."""
        try:
            keys = self._book.keys()
            if keys is None and self._is_open:
                return Caller()
            scheme, _, presented = authorization.partition(" ")
            key = self._book.find(presented.strip()) if scheme.lower() == "bearer" else None
        except PrivateFileError as error:
            log.error("the API keys cannot be read", reason=str(error))
            raise ApiError(
                503, "server_error", "keys_unreadable", "the API keys cannot be read now; the daemon's log says why"
            ) from error
        self._rates.keep_only(keys or ())
        if key is None:
            message = "this is no API key of this gateway" if authorization else "an API key is needed"
            raise _unauthorized(f"{message}: send Authorization: Bearer KEY (`quern keys add` makes one)")
        if key.is_expired(self._wall_clock()):
            raise _unauthorized(f"the API key {key.name} has expired; ask its giver for another")
        return Caller(key)

    def admit(self, caller: Caller) -> None:
        """Count a request. Raises ApiError 429 if there were too many."""
        key = caller.key
        if key is None:
            return
        wait = self._rates.wait_seconds(key, "requests", key.requests_per_minute, 1)
        if wait > 0:
            raise _too_fast("requests", f"the key {key.name} may ask {key.requests_per_minute} times a minute", wait)
        self._rates.take(key, "requests", key.requests_per_minute, 1)

    def headers(self, caller: Caller) -> dict[str, str]:
        """Return what a response tells of the caller's rates."""
        return {} if caller.key is None else self._rates.headers(caller.key)

    def visible(self, caller: Caller, models: Sequence[ModelRecord]) -> list[ModelRecord]:
        """Return the models that a caller may ask."""
        return [model for model in models if caller.key is None or caller.key.may_ask(model.model_id)]

    def check_model(self, caller: Caller, model_id: ModelId) -> None:
        """Raise ApiError 403 if a caller may not ask a model."""
        if caller.key is not None and not caller.key.may_ask(model_id):
            allowed = ", ".join(caller.key.models)
            raise ApiError(
                403,
                "permission_error",
                "model_not_allowed",
                f"the key {caller.key.name} does not open {model_id}; it opens {allowed}",
                param="model",
            )

    def reserve(self, caller: Caller, model: ModelRecord, chats: Sequence[ChatRequest]) -> "Grant":
        """Set aside what answers may cost. Raises ApiError 429 if a rate or a budget does not hold it.

        Answers whose length nobody limited are limited to what the budget holds.
        """
        key = caller.key
        if key is None:
            return Grant(tuple(chats), None)
        left = self._left(key)
        granted = tuple(chats) if left is None else self._within(key, model, chats, left)
        most = sum(_tokens_max(chat, model) for chat in granted)
        return self._grant(key, granted, most * self._token_price(model), sum(_tokens_guessed(chat) for chat in chats))

    def reserve_reading(self, caller: Caller, model: ModelRecord, tokens_max: int) -> "Grant":
        """Set aside what reading at most `tokens_max` may cost, where nothing is written. Raises ApiError 429."""
        key = caller.key
        if key is None:
            return Grant((), None)
        left, most = self._left(key), tokens_max * self._token_price(model)
        if left is not None and most > left:
            raise _exhausted(key, left, most)
        return self._grant(key, (), most, max(1, tokens_max // BYTES_PER_TOKEN))

    def _grant(self, key: ApiKey, chats: tuple[ChatRequest, ...], most: int, guessed: int) -> "Grant":
        wait = self._rates.wait_seconds(key, "tokens", key.tokens_per_minute, guessed)
        if wait > 0:
            raise _too_fast("tokens", f"the key {key.name} has {key.tokens_per_minute} tokens a minute", wait)
        day = day_of(self._wall_clock())
        has_budget = key.total_amount_max is not None or key.day_amount_max is not None
        reservation = self._spending.reserve(key.key_id, day, most) if has_budget else None
        self._rates.take(key, "tokens", key.tokens_per_minute, guessed)

        def settle(usage: Usage) -> None:
            used = usage.prompt_tokens + usage.output_tokens
            self._rates.take(key, "tokens", key.tokens_per_minute, used - guessed)
            spent = Spending(1, usage.prompt_tokens, usage.output_tokens, usage.price)
            self._spending.settle(reservation, key.key_id, day, spent)

        return Grant(chats, settle)

    def _left(self, key: ApiKey) -> int | None:
        """Return what is left of the tighter budget, in base units; None without one."""
        left = []
        if key.total_amount_max is not None:
            spent = self._spending.total(key.key_id).amount + self._spending.reserved(key.key_id)
            left.append(int(key.total_amount_max) - spent)
        if key.day_amount_max is not None:
            today = day_of(self._wall_clock())
            spent = self._spending.on_day(key.key_id, today).amount + self._spending.reserved(key.key_id, today)
            left.append(int(key.day_amount_max) - spent)
        return min(left) if left else None

    def _within(
        self, key: ApiKey, model: ModelRecord, chats: Sequence[ChatRequest], left: int
    ) -> tuple[ChatRequest, ...]:
        token_price = self._token_price(model)
        most = sum(_tokens_max(chat, model) for chat in chats) * token_price
        if most <= left:
            return tuple(chats)
        unlimited = [chat for chat in chats if chat.max_tokens is None]
        fixed = sum(_tokens_max(replace(chat, max_tokens=chat.max_tokens or 1), model) for chat in chats)
        spare = left // token_price - fixed if token_price else 0
        if not unlimited or spare < 0:
            raise _exhausted(key, left, most)
        room = 1 + spare // len(unlimited)
        return tuple(replace(chat, max_tokens=room) if chat.max_tokens is None else chat for chat in chats)


class Grant:
    """Leave to ask `chats`. `settle` once they have ended, before their user knows."""

    def __init__(self, chats: tuple[ChatRequest, ...], settle: Callable[[Usage], None] | None) -> None:
        self.chats = chats
        self._settle = settle

    def settle(self, usage: Usage) -> None:
        """Count what was spent; only the first time."""
        if self._settle is not None:
            settle, self._settle = self._settle, None
            settle(usage)


def _tokens_max(chat: ChatRequest, model: ModelRecord) -> int:
    written = model.context_length if chat.max_tokens is None else chat.max_tokens
    return min(reading_tokens_max(chat.prompt) + written, model.context_length)


def _tokens_guessed(chat: ChatRequest) -> int:
    read = chat.prompt.text_bytes // BYTES_PER_TOKEN + len(chat.prompt.token_ids)
    return read + (chat.max_tokens or OUTPUT_TOKENS_GUESSED)


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, "invalid_request_error", "invalid_api_key", message)


def _too_fast(kind: str, message: str, wait: float) -> ApiError:
    return ApiError(429, kind, "rate_limit_exceeded", f"{message}; try again in {wait:.1f} s", retry_after=wait)


def _exhausted(key: ApiKey, left: int, most: int) -> ApiError:
    """Trying again by itself would not help: SDKs are told so."""
    hint = "; the day's budget begins anew at 00:00 UTC" if key.day_amount_max is not None else ""
    return ApiError(
        429,
        "insufficient_quota",
        "insufficient_quota",
        f"the key {key.name} has {amount_to_tokens(max(0, left))} tokens of its budget left, and this request may cost "
        f"{amount_to_tokens(most)}: ask for fewer tokens (max_tokens) or a larger budget{hint}",
        may_retry=False,
    )
