"""HTTP to a vLLM server over its Unix socket: generation in token ids, log-probabilities, chat templates."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import trio
from pydantic_core import from_json

from node.ports import (
    ChatMessage,
    EngineFailedError,
    EngineRefusedError,
    GenerationChunk,
    GenerationRequest,
)

LINE_BYTES_MAX = 16 * 1024 * 1024
"""A streamed event; more is a fault of the server."""
SILENCE_SECONDS_MAX = 300.0
"""Longest wait for the next bytes: a queued request on a busy engine may wait long, but not for ever."""


class EngineClient:
    """A client of one server that serves one model."""

    def __init__(self, client: httpx.AsyncClient, model_name: str) -> None:
        self._client = client
        self._model_name = model_name

    async def render_chat(self, messages: Sequence[ChatMessage]) -> tuple[int, ...]:
        """Apply the chat template and tokenize."""
        reply = await self._post(
            "/tokenize",
            {
                "messages": [{"role": message.role, "content": message.content} for message in messages],
                "add_generation_prompt": True,
            },
        )
        tokens = reply.get("tokens")
        if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
            raise EngineFailedError("/tokenize: no tokens in the reply")
        return tuple(tokens)

    async def prompt_logprobs(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[list[float]]:
        """Natural-log probabilities of tokens 1..L-1 of each prompt."""
        reply = await self._post(
            "/v1/completions",
            {
                "prompt": [list(prompt) for prompt in prompts],
                "max_tokens": 1,
                "temperature": 0,
                "prompt_logprobs": 0,
                "priority": priority,
            },
        )
        choices = sorted(reply.get("choices", []), key=lambda choice: choice.get("index", 0))
        if len(choices) != len(prompts):
            raise EngineFailedError(f"asked about {len(prompts)} prompts, got {len(choices)} answers")
        return [_logprobs_of(prompt, choice) for prompt, choice in zip(prompts, choices, strict=True)]

    async def generate_one_token(self) -> None:
        """Generate one token, to see that the engine moves: /health stays good when it is wedged."""
        await self._post("/v1/completions", {"prompt": [0], "max_tokens": 1, "temperature": 0, "priority": 0})

    @asynccontextmanager
    async def generate(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[GenerationChunk]]:
        """Stream a generation; leaving the context closes the connection, which aborts it."""
        body = {
            "model": self._model_name,
            "prompt": list(request.prompt_ids),
            "max_tokens": request.max_tokens,
            "temperature": request.temperature_milli / 1000,
            "top_p": request.top_p_milli / 1000,
            "seed": request.seed,
            "stop": list(request.stop),
            "priority": request.priority,
            "stream": True,
            "return_token_ids": True,
        }
        try:
            async with self._client.stream("POST", "/v1/completions", json=body) as response:
                if response.is_error:
                    await response.aread()
                    raise _refusal("/v1/completions", response)
                yield self._chunks(response)
        except httpx.HTTPError as error:
            raise EngineFailedError(f"the engine's connection failed: {error!r}") from error

    async def _chunks(self, response: httpx.Response) -> AsyncIterator[GenerationChunk]:
        finished = False
        async for line in response.aiter_lines():
            if len(line) > LINE_BYTES_MAX:
                raise EngineFailedError("an event of the engine is too large")
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            chunk = _read_chunk(line.removeprefix("data: "))
            if chunk is not None:
                finished = finished or chunk.finish_reason is not None
                yield chunk
        if not finished:  # an engine that dies mid-stream still sends [DONE]
            raise EngineFailedError("the engine's answer broke off")

    async def _post(self, path: str, body: dict[str, object]) -> dict[str, Any]:
        try:
            response = await self._client.post(path, json={"model": self._model_name, **body})
        except httpx.HTTPError as error:
            raise EngineFailedError(f"{path}: {error!r}") from error
        if response.is_error:
            raise _refusal(path, response)
        try:
            reply = from_json(response.content)
        except ValueError as error:
            raise EngineFailedError(f"{path}: the reply is not JSON") from error
        if not isinstance(reply, dict):
            raise EngineFailedError(f"{path}: the reply is not an object")
        return reply


@asynccontextmanager
async def open_client(socket: Path, model_name: str) -> AsyncIterator[EngineClient]:
    """Connect to a server's socket."""
    transport = httpx.AsyncHTTPTransport(uds=str(socket), limits=httpx.Limits(max_connections=None))
    timeout = httpx.Timeout(SILENCE_SECONDS_MAX, connect=10.0)
    async with httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=timeout) as client:
        yield EngineClient(client, model_name)


def _refusal(path: str, response: httpx.Response) -> Exception:
    text = response.text[:500]
    if response.is_client_error:
        return EngineRefusedError(f"{path}: {text}")
    return EngineFailedError(f"{path}: status {response.status_code}: {text}")


def _read_chunk(text: str) -> GenerationChunk | None:
    try:
        event = from_json(text)
    except ValueError as error:
        raise EngineFailedError("an event of the engine is not JSON") from error
    if not isinstance(event, dict):
        raise EngineFailedError("an event of the engine is not an object")
    if "error" in event:
        raise EngineFailedError(f"the engine reports: {str(event['error'])[:500]}")
    choices = event.get("choices")
    if not choices:
        return None
    choice = choices[0]
    token_ids = choice.get("token_ids") or ()
    reason = choice.get("finish_reason")
    if not token_ids and not choice.get("text") and reason is None:
        return None
    return GenerationChunk(tuple(token_ids), choice.get("text") or "", reason)


def _logprobs_of(prompt: Sequence[int], choice: dict[str, Any]) -> list[float]:
    entries = choice.get("prompt_logprobs")
    if not isinstance(entries, list) or len(entries) != len(prompt):
        raise EngineFailedError("the reply has no log-probability for each token of the prompt")
    try:
        pairs = zip(prompt[1:], entries[1:], strict=True)
        return [float(entry[str(token)]["logprob"]) for token, entry in pairs]
    except (KeyError, TypeError, ValueError) as error:
        raise EngineFailedError(f"malformed log-probabilities: {error!r}") from error


async def with_deadline(client: EngineClient, seconds: float) -> None:
    """Ask for one token within `seconds`. Raises EngineFailedError."""
    with trio.move_on_after(seconds) as scope:
        await client.generate_one_token()
    if scope.cancelled_caught:
        raise EngineFailedError(f"the engine did not give one token in {seconds:.0f} s")
