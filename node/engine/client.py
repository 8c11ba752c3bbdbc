"""HTTP to a vLLM server over its Unix socket: generation in token ids, log-probabilities, chat templates."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import trio
from pydantic_core import from_json

from node.engine.vectors import read_vectors
from node.ports import (
    ChatMessage,
    EngineFailedError,
    EngineRefusedError,
    GenerationChunk,
    GenerationRequest,
)
from node.protocol.sampling import PER_MILLE, SamplingParameters

LINE_BYTES_MAX = 16 * 1024 * 1024
"""A streamed event; more is a fault of the server."""
SILENCE_SECONDS_MAX = 300.0
"""Longest wait for the next bytes: a queued request on a busy engine may wait long, but not for ever."""


class EngineClient:
    """A client of one server that serves one model."""

    def __init__(self, client: httpx.AsyncClient, model_name: str) -> None:
        self._client = client
        self._model_name = model_name

    async def render_chat(self, messages: Sequence[ChatMessage], tools: str = "") -> tuple[int, ...]:
        """Apply the chat template and tokenize."""
        body: dict[str, object] = {"messages": [_message(m) for m in messages], "add_generation_prompt": True}
        if tools:
            body["tools"] = from_json(tools)
        return await self._tokenize(body)

    async def tokenize(self, text: str) -> tuple[int, ...]:
        """Tokenize a text as a prompt."""
        return await self._tokenize({"prompt": text, "add_special_tokens": True})

    async def _tokenize(self, body: dict[str, object]) -> tuple[int, ...]:
        reply = await self._post("/tokenize", body)
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

    async def embed(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[bytes]:
        """Vectors of the prompts (float32, little-endian)."""
        body: dict[str, object] = {
            "input": [list(prompt) for prompt in prompts],
            "encoding_format": "base64",
            "priority": priority,
        }
        return read_vectors(await self._post("/v1/embeddings", body), len(prompts))

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
            **_sampling_fields(request.sampling),
            "seed": request.seed,
            "stop": list(request.stop),
            "priority": request.priority,
            "stream": True,
            "return_token_ids": True,
        }
        if request.response_format:
            body["response_format"] = from_json(request.response_format)
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


def _message(message: ChatMessage) -> dict[str, object]:
    fields: dict[str, object] = {"role": message.role, "content": message.content}
    if message.name:
        fields["name"] = message.name
    if message.tool_call_id:
        fields["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        fields["tool_calls"] = from_json(message.tool_calls)
    return fields


def _sampling_fields(sampling: SamplingParameters) -> dict[str, object]:
    return {
        "temperature": sampling.temperature_milli / PER_MILLE,
        "top_p": sampling.top_p_milli / PER_MILLE,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p_milli / PER_MILLE,
        "frequency_penalty": sampling.frequency_penalty_milli / PER_MILLE,
        "presence_penalty": sampling.presence_penalty_milli / PER_MILLE,
        "repetition_penalty": sampling.repetition_penalty_milli / PER_MILLE,
        "logit_bias": {str(bias.token_id): bias.bias_milli / PER_MILLE for bias in sampling.logit_bias} or None,
    }


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
