"""Model servers that others might have made: one with the miner API only, one with OpenAI's, one with all of vLLM's.

The tokens are bytes of UTF-8, the "model" a hash; each server can be given faults by name.
"""

import array
import base64
import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio
import trio.lowlevel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from node.api.server import bind_api, serve_api

CONTEXT = 512
MODEL = "stones-1b"
LETTERS = b"abcdefghijklmnopqrstuvwxyz "


def tokens_of(prompt: Sequence[int], seed: int, count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        digest = hashlib.sha256(f"{seed}/{ids}".encode()).digest()
        ids.append(LETTERS[digest[0] % len(LETTERS)])
    return ids[len(prompt) :]


def logprob_of(prompt: Sequence[int], place: int) -> float:
    return -1.0 - hashlib.sha256(str(list(prompt[: place + 1])).encode()).digest()[0] / 100


def refusal(message: str, status: int = 400) -> Response:
    return JSONResponse({"error": {"message": message, "type": "BadRequestError", "code": status}}, status_code=status)


@dataclass
class VllmStandIn:
    """vLLM's API as far as a node uses it. `faults` are names of what it gets wrong."""

    faults: frozenset[str] = frozenset()
    key: str = ""
    version: str = "0.32.0"
    running: int = 0
    requests: int = 0
    draws: int = 0
    chats: list[dict[str, Any]] = field(default_factory=list)

    def app(self) -> Starlette:
        routes = [
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/completions", self.complete, methods=["POST"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
        ]
        if "embeds" in self.faults:
            routes = [routes[0], Route("/v1/embeddings", self.embed, methods=["POST"])]
        if "no health" not in self.faults:
            routes.append(Route("/health", lambda _: Response(), methods=["GET"]))
        if "openai only" not in self.faults:
            routes += [
                Route("/version", lambda _: JSONResponse({"version": self.version}), methods=["GET"]),
                Route("/tokenize", self.tokenize, methods=["POST"]),
                Route("/detokenize", self.detokenize, methods=["POST"]),
                Route("/metrics", self.metrics, methods=["GET"]),
            ]
        return Starlette(routes=routes)

    async def models(self, request: Request) -> Response:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return refusal("Unauthorized", 401)
        return JSONResponse({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    async def metrics(self, _request: Request) -> Response:
        running = 1.0 if "never frees" in self.faults and self.requests else float(self.running)
        return PlainTextResponse(f'# TYPE x gauge\nvllm:num_requests_running{{engine="0"}} {running}\n')

    async def tokenize(self, request: Request) -> Response:
        body = await request.json()
        text = body["prompt"] if "prompt" in body else "".join(message["content"] for message in body["messages"])
        return JSONResponse({"tokens": list(text.encode()), "count": len(text.encode())})

    async def embed(self, request: Request) -> Response:
        body = await request.json()
        many = len(body["input"]) > 1 and "batch changes logprobs" in self.faults
        vector = base64.b64encode(array.array("f", [0.5, -0.25 + 0.2 * many]).tobytes()).decode()
        data = [{"index": index, "embedding": vector} for index in range(len(body["input"]))]
        return JSONResponse({"data": data, "usage": {"prompt_tokens": 3}})

    async def detokenize(self, request: Request) -> Response:
        return JSONResponse({"prompt": bytes((await request.json())["tokens"]).decode()})

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        self.chats.append(body)
        text = "".join(message["content"] for message in body["messages"])
        ids = tokens_of(list(text.encode()), 0, body["max_tokens"])
        if body.get("stream"):
            return StreamingResponse(self._chat_events(bytes(ids).decode()), media_type="text/event-stream")
        message = {"role": "assistant", "content": bytes(ids).decode()}
        choice = {"index": 0, "message": message, "finish_reason": "length"}
        return JSONResponse({"choices": [choice], "usage": {"completion_tokens": len(ids)}})

    async def _chat_events(self, text: str) -> AsyncIterator[bytes]:
        for start in range(0, len(text), 5):
            if "breaks off" in self.faults and start:
                break
            delta = {"index": 0, "delta": {"content": text[start : start + 5]}, "finish_reason": None}
            yield f"data: {json.dumps({'choices': [delta]})}\n\n".encode()
        if "breaks off" not in self.faults:
            last = {"index": 0, "delta": {}, "finish_reason": "stop"}
            yield f"data: {json.dumps({'choices': [last]})}\n\n".encode()
        yield b"data: [DONE]\n\n"

    async def complete(self, request: Request) -> Response:
        body = await request.json()
        self.requests += 1
        prompts = body["prompt"]
        if isinstance(prompts, str):
            prompts = [list(prompts.encode())]
        elif not isinstance(prompts[0], list):
            prompts = [prompts]
        if body.get("temperature", 1) < 0 or body.get("max_tokens", 16) > CONTEXT or max(map(max, prompts)) > 255:
            return refusal("no", 500) if "dies of bad requests" in self.faults else refusal("no")
        if body.get("priority") and "no priority" in self.faults:
            return refusal("priority needs --scheduling-policy priority")
        if body.get("stream"):
            return StreamingResponse(self._events(body, prompts[0]), media_type="text/event-stream")
        await trio.lowlevel.checkpoint()
        choices = [self._choice(body, prompt, index) for index, prompt in enumerate(prompts)]
        given = sum(len(choice.pop("_ids")) for choice in choices)
        usage = {"prompt_tokens": sum(map(len, prompts)), "completion_tokens": given + ("miscounts" in self.faults)}
        return JSONResponse({"choices": choices, "usage": usage})

    def _ids(self, body: dict[str, Any], prompt: list[int]) -> list[int]:
        seed = body.get("seed", 0) if body.get("temperature") else 0
        if "ignores seeds" in self.faults and body.get("temperature"):
            self.draws += 1
            seed = self.draws
        if "one seed" in self.faults:
            seed = 0
        if "greedy is random" in self.faults and not body.get("temperature"):
            self.draws += 1
            seed = self.draws
        return tokens_of(prompt, seed, body["max_tokens"])

    def _choice(self, body: dict[str, Any], prompt: list[int], index: int) -> dict[str, Any]:
        ids = self._ids(body, prompt)
        choice: dict[str, Any] = {"index": index, "text": bytes(ids).decode(), "finish_reason": "length", "_ids": ids}
        if body.get("return_token_ids") and "openai only" not in self.faults:
            choice |= {"token_ids": ids, "prompt_token_ids": prompt}
        if "logprobs" in body and "openai only" not in self.faults:
            choice["logprobs"] = {"tokens": [f"token_id:{t}" for t in ids], "token_logprobs": [-1.0] * len(ids)}
        if "prompt_logprobs" in body and "openai only" not in self.faults:
            noise = 0.5 * index if "batch changes logprobs" in self.faults else 0.0
            entries = [{str(t): {"logprob": logprob_of(prompt, p) - noise}} for p, t in enumerate(prompt)]
            choice["prompt_logprobs"] = [None, *entries[1:]]
        return choice

    async def _events(self, body: dict[str, Any], prompt: list[int]) -> AsyncIterator[bytes]:
        ids = self._ids(body, prompt)
        self.running += 1
        try:
            size = len(ids) if "one piece" in self.faults else 4
            for start in range(0, len(ids), size):
                piece = ids[start : start + size]
                last = start + size >= len(ids)
                reason = "length" if last and "no finish reason" not in self.faults else None
                text = bytes(piece).decode() + ("!" if "stream differs" in self.faults else "")
                choice: dict[str, Any] = {"index": 0, "text": text, "finish_reason": reason}
                if body.get("return_token_ids") and "openai only" not in self.faults:
                    choice["token_ids"] = piece
                yield f"data: {json.dumps({'choices': [choice]})}\n\n".encode()
                await trio.sleep(0.005)
            yield b"data: [DONE]\n\n"
        finally:
            self.running -= 1


@dataclass
class MinerStandIn:
    """The Miner Guide's example server: Flask's in shape, and nothing besides."""

    faults: frozenset[str] = frozenset()
    asked: list[dict[str, Any]] = field(default_factory=list)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/api/chat", self.chat, methods=["POST"]),
                Route("/health", self.health, methods=["GET"]),
                Route("/info", self.info, methods=["GET"]),
            ]
        )

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        answer = {
            "response": f"You asked: {body['prompt']}",
            "model": MODEL,
            "timestamp": "2024-01-15T10:30:00Z",
            "processing_time": 1.23,
        }
        if "no response" in self.faults:
            del answer["response"]
        return JSONResponse(answer)

    async def health(self, _request: Request) -> Response:
        loaded = "loading" not in self.faults
        return JSONResponse({"status": "healthy", "model_loaded": loaded, "uptime": "0h 0m 0s"})

    async def info(self, _request: Request) -> Response:
        return JSONResponse(
            {
                "model_name": MODEL,
                "model_type": "llm",
                "version": "1.0.0",
                "capabilities": ["text-generation"],
                "max_context_length": 1024,
            }
        )


@asynccontextmanager
async def running(stand_in: VllmStandIn | MinerStandIn) -> AsyncIterator[str]:
    """Serve a stand-in; gives its URL."""
    listener = bind_api("127.0.0.1", 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_api, stand_in.app(), listener)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        nursery.cancel_scope.cancel()
    listener.close()
