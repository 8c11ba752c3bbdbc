"""HTTP to a vLLM server: generation in token ids, drawn by the network's rule; log-probabilities, chat templates."""

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import structlog
import trio
from pydantic_core import from_json

from node.engine.columns import columns_from, read_own_logprobs, read_prefills
from node.engine.drawing import (
    DrawStyle,
    draw_fields,
    find_draw_style,
    read_candidates,
    read_token_id,
    sampling_fields,
)
from node.engine.event_stream import EventLines, StreamedChunks, broken_off, chunk_of, connection_failed, read_event
from node.engine.plain_http import PUSH, Push
from node.engine.vectors import read_vectors
from node.engine.winners import finds_winners, winner_fields
from node.ports import (
    ChatMessage,
    EngineFailedError,
    EngineRefusedError,
    GenerationChunk,
    GenerationRequest,
)
from node.protocol.draws import Drawn, Prefill
from node.protocol.sampling import TokenAlternative, TokenLogprobs
from node.protocol.sketches import folded, numbers_of

log = structlog.get_logger(__name__)

NOT_NOW = frozenset({httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS})
"""What a server says of itself, not of the request."""
TEXTS_KEPT_MAX = 1 << 18
"""Texts of tokens, asked for once: larger than most vocabularies."""


class EngineClient:
    """A client of one server that serves one model."""

    def __init__(self, client: httpx.AsyncClient, model_name: str) -> None:
        self._client = client
        self._model_name = model_name
        self._draw_style: DrawStyle | None = None
        self._tells_winners: bool | None = None
        self._finding_out = trio.Lock()
        self._texts: dict[int, str] = {}
        self._embeds = False
        """Whether the server makes vectors instead of tokens; found by asking."""

    async def prepare(self) -> DrawStyle | None:
        """Find out, before the first request, what is asked only once; return how it draws, None if it embeds."""
        await self.generate_one_token()
        if self._embeds:
            return None
        await self.tells_winners()
        return await self.draw_style()

    async def draw_style(self) -> DrawStyle:
        """How this server draws by the network's rule; asked once."""
        async with self._finding_out:
            if self._draw_style is None:
                self._draw_style = await find_draw_style(self._post)
                if self._draw_style is DrawStyle.NONE:
                    log.error(
                        "this engine does not draw tokens by the network's rule: whoever checks its answers finds them "
                        "wrong, which may cost their pay. Run vLLM in a version of the network's range",
                        model=self._model_name,
                    )
                else:
                    log.info("the engine draws by the rule", model=self._model_name, by=self._draw_style.value)
        return self._draw_style

    async def tells_winners(self) -> bool:
        """Whether a prefill by this server can tell of the rule's winners; asked once."""
        by_plugin = await self.draw_style() is DrawStyle.PLUGIN  # vLLM by itself never does
        async with self._finding_out:
            if self._tells_winners is None:
                self._tells_winners = by_plugin and await finds_winners(self._post)
                if by_plugin and not self._tells_winners:
                    log.warning(
                        "this engine tells of the likeliest tokens alone: audits by it need more tokens to prove a "
                        "mild cheat. Run vLLM in a version of the network's range",
                        model=self._model_name,
                    )
        return self._tells_winners

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
        """Natural-log probabilities of tokens 1..L-1 of each prompt.

        Of an embedding model, its vectors folded into the numbers of a nonce (sketches.py): it has no probabilities.
        """
        try:
            if not self._embeds:
                return await self._prompt_logprobs(prompts, priority=priority)
        except EngineRefusedError:
            if not await self._turns_out_to_embed():
                raise
        return [folded(numbers_of(vector)) for vector in await self.embed(prompts, priority=priority)]

    async def _prompt_logprobs(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[list[float]]:
        reply = await self._post(
            "/v1/completions",
            {
                "prompt": [list(prompt) for prompt in prompts],
                "max_tokens": 1,
                "temperature": 0,
                "prompt_logprobs": 0,
                "priority": priority,
                "vllm_xargs": columns_from(1),
            },
        )
        choices = sorted(reply.get("choices", []), key=lambda choice: choice.get("index", 0))
        if len(choices) != len(prompts):
            raise EngineFailedError(f"asked about {len(prompts)} prompts, got {len(choices)} answers")
        pairs = zip(prompts, choices, strict=True)
        return [read_own_logprobs(choice.get("prompt_logprobs"), prompt) for prompt, choice in pairs]

    async def embed(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[bytes]:
        """Vectors of the prompts (float32, little-endian)."""
        body: dict[str, object] = {
            "input": [list(prompt) for prompt in prompts],
            "encoding_format": "base64",
            "priority": priority,
        }
        return read_vectors(await self._post("/v1/embeddings", body), len(prompts))

    async def prefill(
        self, token_ids: Sequence[int], first: int, *, top: int, priority: int, drawn: Drawn | None = None
    ) -> list[Prefill]:
        """What the model says of the tokens from place `first` on, given those before; see node.ports.Prefiller."""
        body: dict[str, object] = {"prompt": list(token_ids), "max_tokens": 1, "temperature": 0, "priority": priority}
        if drawn is None or not drawn.has_unlikely_winners or not await self.tells_winners():
            body |= {"prompt_logprobs": top, "vllm_xargs": columns_from(first)}
            return read_prefills(await self._post("/v1/completions", body), token_ids, first, top)
        reply = await self._post("/v1/completions", body | winner_fields(drawn, first, top))
        return read_prefills(reply, token_ids, first, top, winners=True)

    async def generate_one_token(self) -> None:
        """Generate one token, to see that the engine moves: /health stays good when it is wedged.

        A server that knows no completions, but gives a vector, is one of an embedding model from then on.
        """
        try:
            if not self._embeds:
                await self._post("/v1/completions", {"prompt": [0], "max_tokens": 1, "temperature": 0, "priority": 0})
                return
        except EngineRefusedError:
            if not await self._turns_out_to_embed():
                raise
        await self.embed([[0]], priority=0)

    async def _turns_out_to_embed(self) -> bool:
        """Whether a server that has refused a completion makes vectors. If so it is not asked for tokens again."""
        try:
            await self.embed([[0]], priority=0)
        except EngineRefusedError:
            return False
        self._embeds = True
        return True

    @asynccontextmanager
    async def generate(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[GenerationChunk]]:
        """Stream a generation; leaving the context closes the connection, which aborts it."""
        body = {
            "model": self._model_name,
            "prompt": list(request.prompt_ids),
            "max_tokens": request.max_tokens,
            **await self._fields_of(request),
            "stop": list(request.stop),
            # Else vLLM holds text back that may begin a stop text, and with an engine that dies it would be lost.
            "include_stop_str_in_output": bool(request.stop),
            "priority": request.priority,
            "stream": True,
            "return_token_ids": True,
        }
        if request.response_format:
            body["response_format"] = from_json(request.response_format)
        if request.logprobs is not None:
            body |= {"logprobs": request.logprobs, "return_tokens_as_token_ids": True}
        if request.private:
            body["cache_salt"] = secrets.token_hex(16)  # else a guess that is answered faster is known to be right
        try:
            async with self._client.stream("POST", "/v1/completions", json=body) as response:
                if response.is_error:
                    await response.aread()
                    raise _refusal("/v1/completions", response)
                push: Push | None = response.extensions.get(PUSH)
                chunks = self._chunks(response, request.logprobs)
                if push is None or request.logprobs is not None:  # the texts of tokens are asked for, which takes time
                    yield chunks
                else:
                    yield StreamedChunks(chunks, push)
        except httpx.HTTPError as error:
            raise connection_failed(error) from error

    async def _fields_of(self, request: GenerationRequest) -> dict[str, object]:
        """How the tokens are drawn: by the rule where there is one, else as vLLM does."""
        if request.is_verifiable and request.sampling.temperature_milli:
            return draw_fields(request.sampling, request.seed, await self.draw_style())
        return sampling_fields(request.sampling) | {"seed": request.seed}

    async def _chunks(self, response: httpx.Response, logprobs: int | None) -> AsyncIterator[GenerationChunk]:
        finished = False
        lines = EventLines()
        async for data in response.aiter_raw():
            for event in lines.events(data):
                choice = read_event(event)
                chunk = None if choice is None else chunk_of(choice)
                if choice is None or chunk is None:
                    continue
                if logprobs is not None and chunk.token_ids:
                    candidates = _read_candidates(choice, len(chunk.token_ids))
                    chunk = replace(chunk, logprobs=await self._with_texts(candidates, logprobs))
                finished = finished or chunk.finish_reason is not None
                yield chunk
        if not finished:  # an engine that dies mid-stream still sends [DONE]
            raise broken_off()

    async def _with_texts(
        self, places: Sequence[tuple[int, dict[int, float]]], alternatives: int
    ) -> tuple[TokenLogprobs, ...]:
        tops = [list(candidates)[:alternatives] for _, candidates in places]
        await self._learn_texts({token for token, _ in places}.union(*tops))

        def told(token: int, candidates: dict[int, float]) -> TokenAlternative:
            return TokenAlternative(token, self._texts[token], round(candidates[token] * 1_000_000))

        return tuple(
            TokenLogprobs(told(token, candidates), tuple(told(other, candidates) for other in top))
            for (token, candidates), top in zip(places, tops, strict=True)
        )

    async def _learn_texts(self, wanted: set[int]) -> None:
        """Ask for the texts of tokens that are not known yet. The server tells ids or texts, not both."""
        if len(self._texts) + len(wanted) > TEXTS_KEPT_MAX:
            self._texts.clear()
        for token in sorted(wanted - self._texts.keys()):
            text = (await self._post("/detokenize", {"tokens": [token]})).get("prompt")
            if not isinstance(text, str):
                raise EngineFailedError("/detokenize: no text in the reply")
            self._texts[token] = text

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


def _message(message: ChatMessage) -> dict[str, object]:
    fields: dict[str, object] = {"role": message.role, "content": message.content}
    if message.name:
        fields["name"] = message.name
    if message.tool_call_id:
        fields["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        fields["tool_calls"] = from_json(message.tool_calls)
    return fields


def _refusal(path: str, response: httpx.Response) -> Exception:
    text = response.text[:500]
    if response.is_client_error and response.status_code not in NOT_NOW:
        return EngineRefusedError(f"{path}: {text}")
    return EngineFailedError(f"{path}: status {response.status_code}: {text}")


def _read_candidates(choice: dict[str, Any], count: int) -> list[tuple[int, dict[int, float]]]:
    """Return, for each of `count` tokens, its id and the log-probabilities of it and of others, likeliest first."""
    logprobs = choice.get("logprobs")
    try:
        if not isinstance(logprobs, dict):
            raise ValueError("none came")
        found = []
        for word, own, top in zip(
            logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True
        ):
            token = read_token_id(word)
            found.append((token, read_candidates({word: own, **(top or {})})))
        if len(found) != count:
            raise ValueError(f"{len(found)} came for {count} tokens")
    except (KeyError, TypeError, ValueError) as error:
        raise EngineFailedError(f"malformed log-probabilities: {error!r}") from error
    return found
