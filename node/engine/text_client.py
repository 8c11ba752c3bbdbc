"""A model server that only takes and gives text, as an ML node: OpenAI's chat API, or the miner API (C1).

Such a server tells no token ids and no log-probabilities: it proves no work and its answers cannot be audited. It
serves the node's own callers, and networks whose members trust each other. What its API does not have is refused, never
left out. Its tokens are pieces of text (text_pieces.py).
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Any

import httpx
from pydantic_core import from_json

from node.engine.text_pieces import (
    PieceWriter,
    TextPrompt,
    conversation_pieces,
    from_pieces,
    read_prompt,
    text_pieces,
)
from node.ports import ChatMessage, EngineFailedError, EngineRefusedError, GenerationChunk, GenerationRequest
from node.protocol.draws import Drawn, Prefill
from node.protocol.sampling import PER_MILLE, SamplingParameters

LINE_BYTES_MAX = 1024 * 1024
CANARY = "Hello"
REASONS = frozenset({"stop", "length"})


class TextApi(StrEnum):
    """What a server speaks."""

    OPENAI = "openai"
    MINER = "miner"


class TextClient:
    """A client of one such server. The methods are those of `node.engine.client.EngineClient`."""

    def __init__(self, client: httpx.AsyncClient, model_name: str, api: TextApi) -> None:
        self._client = client
        self._model_name = model_name
        self._api = api

    async def render_chat(self, messages: Sequence[ChatMessage], tools: str = "") -> tuple[int, ...]:
        """Return the pieces of a conversation."""
        if tools or any(message.tool_calls or message.tool_call_id for message in messages):
            raise EngineRefusedError("this server takes no tools")
        return conversation_pieces(messages)

    async def tokenize(self, text: str) -> tuple[int, ...]:
        """Return the pieces of a text."""
        return text_pieces(text)

    async def generate_one_token(self) -> None:
        """Ask for a word, to see that it answers."""
        sampling = SamplingParameters(temperature_milli=0)
        request = GenerationRequest(conversation_pieces([ChatMessage("user", CANARY)]), 1, sampling, 0, (), 0)
        async with self.generate(request) as chunks:
            async for _ in chunks:
                return

    async def prompt_logprobs(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[list[float]]:
        """It has none."""
        raise EngineRefusedError("this server tells no log-probabilities: it can neither prove work nor check others'")

    async def prefill(
        self, token_ids: Sequence[int], first: int, *, top: int, priority: int, drawn: Drawn | None = None
    ) -> list[Prefill]:
        """It has none."""
        raise EngineRefusedError("this server tells no log-probabilities: it can check no tokens")

    async def embed(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[bytes]:
        """It makes none."""
        raise EngineRefusedError("this server makes no vectors")

    @asynccontextmanager
    async def generate(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[GenerationChunk]]:
        """Generate; leaving the context closes the connection."""
        prompt = read_prompt(request.prompt_ids)
        _refuse(request, self._api)
        if self._api is TextApi.MINER:
            yield self._miner_answer(prompt, request)
            return
        path, body = _openai_body(prompt, request, self._model_name)
        try:
            async with self._client.stream("POST", path, json=body) as response:
                if response.is_error:
                    await response.aread()
                    raise _refusal(path, response)
                yield _pieces(_openai_texts(response), request.max_tokens)
        except httpx.HTTPError as error:
            raise EngineFailedError(f"the server's connection failed: {error!r}") from error

    async def _miner_answer(self, prompt: TextPrompt, request: GenerationRequest) -> AsyncIterator[GenerationChunk]:
        temperature = request.sampling.temperature_milli / PER_MILLE
        body = {"prompt": _miner_prompt(prompt), "temperature": temperature, "max_tokens": request.max_tokens}
        try:
            response = await self._client.post("/api/chat", json=body)
        except httpx.HTTPError as error:
            raise EngineFailedError(f"the server's connection failed: {error!r}") from error
        if response.is_error:
            raise _refusal("/api/chat", response)
        answer = _read(response.content, "/api/chat").get("response")
        if not isinstance(answer, str):
            raise EngineFailedError("/api/chat: there is no response in the reply")
        cut = min((at for at in (answer.find(stop) for stop in request.stop) if at >= 0), default=len(answer))

        async def whole() -> AsyncIterator[tuple[str, str | None]]:
            yield answer[:cut], "stop"

        async for chunk in _pieces(whole(), request.max_tokens):
            yield chunk


async def _pieces(texts: AsyncIterator[tuple[str, str | None]], pieces_max: int) -> AsyncIterator[GenerationChunk]:
    """Cut texts into pieces, at most so many. Each chunk's text is that of its pieces, whole characters only."""
    writer = PieceWriter(pieces_max)
    waiting = b""
    reason: str | None = None
    async for text, told in texts:
        reason = told or reason
        pieces = writer.add(text)
        shown, waiting = _whole_characters(waiting + from_pieces(pieces))
        if writer.is_full and writer.has_more:
            yield GenerationChunk(pieces, shown, "length")
            return
        if pieces:
            yield GenerationChunk(pieces, shown, None)
    if reason is None:
        raise EngineFailedError("the server's answer broke off")
    last = writer.end()
    text = (waiting + from_pieces(last)).decode("utf-8", "ignore")
    yield GenerationChunk(last, text, "length" if writer.was_cut else reason)


def _whole_characters(data: bytes) -> tuple[str, bytes]:
    """Return the text of `data` and the bytes of a character that is not complete."""
    for size in range(len(data), max(-1, len(data) - 4), -1):
        try:
            return data[:size].decode(), data[size:]
        except UnicodeDecodeError:
            continue
    return "", data


def _refuse(request: GenerationRequest, api: TextApi) -> None:
    """Raise EngineRefusedError for what the API does not have."""
    sampling, plain = request.sampling, SamplingParameters()
    absent = {"top_k": sampling.top_k, "min_p": sampling.min_p_milli, "logit_bias": sampling.logit_bias}
    absent["repetition_penalty"] = sampling.repetition_penalty_milli - plain.repetition_penalty_milli
    absent["logprobs"] = request.logprobs is not None
    if api is TextApi.MINER:
        absent["top_p"] = sampling.top_p_milli - plain.top_p_milli
        absent["frequency_penalty"] = sampling.frequency_penalty_milli
        absent["presence_penalty"] = sampling.presence_penalty_milli
        absent["response_format"] = request.response_format
    named = [name for name, value in absent.items() if value]
    if named:
        raise EngineRefusedError(f"this server has no {', '.join(named)}")


def _openai_body(prompt: TextPrompt, request: GenerationRequest, model: str) -> tuple[str, dict[str, object]]:
    sampling = request.sampling
    body: dict[str, object] = {
        "model": model,
        "max_tokens": request.max_tokens,
        "temperature": sampling.temperature_milli / PER_MILLE,
        "top_p": sampling.top_p_milli / PER_MILLE,
        "frequency_penalty": sampling.frequency_penalty_milli / PER_MILLE,
        "presence_penalty": sampling.presence_penalty_milli / PER_MILLE,
        "seed": request.seed,
        "stream": True,
    }
    if request.stop:
        body["stop"] = list(request.stop)
    if request.response_format:
        body["response_format"] = from_json(request.response_format)
    if not prompt.messages:
        return "/v1/completions", body | {"prompt": prompt.text}
    messages = [{"role": m.role, "content": m.content} | ({"name": m.name} if m.name else {}) for m in prompt.messages]
    return "/v1/chat/completions", body | {"messages": messages}


def _miner_prompt(prompt: TextPrompt) -> str:
    """A conversation as one text: the miner API takes nothing else."""
    if not prompt.messages:
        return prompt.text
    if len(prompt.messages) == 1:
        return prompt.messages[0].content
    return "\n\n".join(f"{message.role}: {message.content}" for message in prompt.messages) + "\n\nassistant:"


async def _openai_texts(response: httpx.Response) -> AsyncIterator[tuple[str, str | None]]:
    async for line in response.aiter_lines():
        if len(line) > LINE_BYTES_MAX:
            raise EngineFailedError("an event of the server is too large")
        if not line.startswith("data:") or line.endswith("[DONE]"):
            continue
        event = _read(line.removeprefix("data:").strip().encode(), "an event")
        if "error" in event:
            raise EngineFailedError(f"the server reports: {str(event['error'])[:500]}")
        choices = event.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            continue
        delta = choices[0].get("delta")
        text = delta.get("content") if isinstance(delta, dict) else choices[0].get("text")
        reason = choices[0].get("finish_reason")
        yield (text if isinstance(text, str) else ""), (reason if reason in REASONS else None)


def _read(content: bytes, what: str) -> dict[str, Any]:
    try:
        value = from_json(content)
    except ValueError as error:
        raise EngineFailedError(f"{what}: not JSON") from error
    if not isinstance(value, dict):
        raise EngineFailedError(f"{what}: not an object")
    return value


def _refusal(path: str, response: httpx.Response) -> Exception:
    words = f"{path}: status {response.status_code}: {' '.join(response.text.split())[:300]}"
    if response.status_code in (400, 413, 422):
        return EngineRefusedError(words)
    return EngineFailedError(words)


async def identify_text_server(http: httpx.AsyncClient, model_name: str, api: TextApi) -> None:
    """Make sure that a server has the model. Raises EngineFailedError with what to change."""
    path = "/v1/models" if api is TextApi.OPENAI else "/info"
    try:
        response = await http.get(path)
    except httpx.HTTPError as error:
        raise EngineFailedError(f"the server cannot be reached: {error!r}") from error
    if response.is_error:
        raise EngineFailedError(f"{path}: status {response.status_code}")
    reply = _read(response.content, path)
    if api is TextApi.MINER:
        names = [reply.get("model_name")]
    else:
        data = reply.get("data")
        names = [entry.get("id") for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []
    if model_name not in names:
        told = ", ".join(str(name)[:64] for name in names[:8]) or "nothing"
        raise EngineFailedError(f"the server says it serves {told}, not {model_name}: have it use the registry's id")
