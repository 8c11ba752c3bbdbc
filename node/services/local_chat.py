"""Answers asked of this node's own engines directly, by its operator and whoever he lets in. Nobody pays for them."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from node.ports import ChatMessage, Engine, EngineFailedError, EngineRefusedError, GenerationRequest
from node.protocol.identifiers import ModelId
from node.protocol.sampling import SamplingParameters

CHATS_MAX = 32
"""Answers at once. More would keep the network's own requests, which are paid for, waiting in the engine."""
ANSWER_SECONDS_MAX = 600.0
"""An answer that takes longer is given up: whoever asked has gone, or the engine is wedged."""
SEED_BYTES = 4
PRIORITY = 0


class LocalChatError(Exception):
    """An answer that cannot be given; the message says why and, where something can be done, what."""


class UnknownModelError(LocalChatError):
    """No ML node of this daemon serves the model."""


class NotReadyError(LocalChatError):
    """Its engine is loading, or has failed."""


class BusyError(LocalChatError):
    """As many answers are being given as may be at once."""


class RefusedError(LocalChatError):
    """The engine refuses the request itself, such as a prompt over its context."""


class AnswerFailedError(LocalChatError):
    """The engine failed, or took too long."""


@dataclass(frozen=True, slots=True)
class LocalAnswer:
    """A whole answer. `seconds` is how long it took."""

    model_id: ModelId
    text: str
    prompt_tokens: int
    output_tokens: int
    finish_reason: str
    seconds: float


class LocalChat:
    """Asks the engines of this daemon. `wanted` are the models they are to serve, in the order of the settings.

    The counts are of answers since the start.
    """

    def __init__(self, engines: Sequence[Engine], wanted: Callable[[], Sequence[ModelId]]) -> None:
        self._engines = engines
        self._wanted = wanted
        self.running = 0
        self.answered = 0
        self.failed = 0
        self.seconds_total = 0.0
        """Of those answered."""

    def wanted(self) -> tuple[ModelId, ...]:
        """Models that this node serves or will serve, each once."""
        return tuple(dict.fromkeys(self._wanted()))

    def ready(self) -> tuple[ModelId, ...]:
        """Models that can be asked now, each once."""
        return tuple(dict.fromkeys(engine.model_id for engine in self._engines if engine.model_id is not None))

    async def answer(
        self, model_id: ModelId | None, text: str, *, temperature_milli: int, max_tokens: int
    ) -> LocalAnswer:
        """Answer one message; without a model, with the first that is ready. Raises LocalChatError."""
        engine = self._choose(model_id)
        if self.running >= CHATS_MAX:
            raise BusyError(f"{CHATS_MAX} answers are being given; try again in a moment")
        self.running += 1
        started = trio.current_time()
        try:
            with trio.fail_after(ANSWER_SECONDS_MAX):
                answer = await _ask(engine, text, temperature_milli, max_tokens, started)
        except trio.TooSlowError as error:
            self.failed += 1
            raise AnswerFailedError(f"there was no answer within {ANSWER_SECONDS_MAX:.0f} s") from error
        except EngineFailedError as error:
            self.failed += 1
            raise AnswerFailedError(f"the engine failed: {error}") from error
        except EngineRefusedError as error:
            raise RefusedError(str(error)) from error
        finally:
            self.running -= 1
        self.answered += 1
        self.seconds_total += answer.seconds
        return answer

    def _choose(self, model_id: ModelId | None) -> Engine:
        for engine in self._engines:
            if engine.model_id is not None and model_id in (None, engine.model_id):
                return engine
        if model_id is None or model_id in self.wanted():
            raise NotReadyError("no model is ready yet" if model_id is None else f"{model_id} is not ready yet")
        known = ", ".join(self.wanted()) or "none"
        raise UnknownModelError(f"Model not available: {model_id}; this node serves {known}")


async def _ask(engine: Engine, text: str, temperature_milli: int, max_tokens: int, started: float) -> LocalAnswer:
    model_id = engine.model_id
    if model_id is None:
        raise EngineFailedError("it is not ready any more")
    prompt_ids = await engine.render_chat([ChatMessage("user", text)])
    request = GenerationRequest(
        prompt_ids=prompt_ids,
        max_tokens=max_tokens,
        sampling=SamplingParameters(temperature_milli=temperature_milli),
        seed=int.from_bytes(secrets.token_bytes(SEED_BYTES)),
        stop=(),
        priority=PRIORITY,
    )
    texts: list[str] = []
    tokens = 0
    reason = ""
    async with engine.generate(request) as chunks:
        async for chunk in chunks:
            texts.append(chunk.text)
            tokens += len(chunk.token_ids)
            reason = chunk.finish_reason or reason
    if not reason:
        raise EngineFailedError("its answer broke off")
    return LocalAnswer(model_id, "".join(texts), len(prompt_ids), tokens, reason, trio.current_time() - started)
