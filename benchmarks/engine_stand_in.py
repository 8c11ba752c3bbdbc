"""A stand-in for a vLLM server on a GPU: the same HTTP, tokens at the pace of a GPU, hardly any processor time.

.venv/bin/python -m benchmarks.engine_stand_in --port PORT [--model NAME] [--rate 40] [--prefill-ms 25]

What it measures is everything around an engine: its tokens are numbers in a row and mean nothing. It answers what a
daemon asks of its engine (health, models, version, tokens of a text, log-probabilities of prompts, generation, whole
and streamed), with the fields of vLLM 0.32. Plain asyncio, because the less it takes the more is left to measure.
"""

import argparse
import asyncio
import json
import time
from typing import Any

VOCABULARY_SIZE = 3072
HEADER_BYTES_MAX = 64 * 1024
PIECE = " t"


class StandIn:
    """Answers requests of one model."""

    def __init__(self, model: str, tokens_per_second: float, prefill_seconds: float) -> None:
        self._model = model
        self._step_seconds = 1 / tokens_per_second
        self._prefill_seconds = prefill_seconds

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection, one request after the other."""
        try:
            while True:
                method, path, body = await read_request(reader)
                await self._answer(method, path, body, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            return  # the client went away
        finally:
            writer.close()

    async def _answer(self, method: str, path: str, body: Any, writer: asyncio.StreamWriter) -> None:
        if path == "/v1/completions" and body.get("stream"):
            await self._stream(body, writer)
        elif path == "/v1/completions":
            await reply(writer, self._completion(body))
        elif path == "/tokenize":
            await reply(writer, {"tokens": tokens_of(body), "count": len(tokens_of(body)), "max_model_len": 4096})
        elif path == "/v1/models":
            await reply(writer, {"object": "list", "data": [{"id": self._model, "object": "model"}]})
        elif path == "/version":
            await reply(writer, {"version": "0.32.0"})
        elif method == "GET":
            await reply(writer, {})
        else:
            await reply(writer, {"error": {"message": f"the stand-in has no {path}"}}, status="404 Not Found")

    def _completion(self, body: Any) -> dict[str, Any]:
        prompts = body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
        if prompts and not isinstance(prompts[0], list):
            prompts = [prompts]
        count = body.get("max_tokens", 1)
        choices = []
        for index, prompt in enumerate(prompts):
            choice = {
                "index": index,
                "text": PIECE * count,
                "finish_reason": "length",
                "token_ids": [1] * count,
            }
            if body.get("prompt_logprobs") is not None:
                choice["prompt_logprobs"] = [None, *({str(token): {"logprob": -1.0}} for token in prompt[1:])]
            choices.append(choice)
        return {"id": "cmpl", "object": "text_completion", "model": self._model, "choices": choices}

    async def _stream(self, body: Any, writer: asyncio.StreamWriter) -> None:
        """Send a token every step; the clock is absolute, so that a late one does not delay those after it."""
        began = time.perf_counter()
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        count = body.get("max_tokens", 16)
        for number in range(count):
            due = began + self._prefill_seconds + number * self._step_seconds
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            choice = {
                "index": 0,
                "text": PIECE,
                "logprobs": None,
                "finish_reason": "length" if number == count - 1 else None,
                "stop_reason": None,
                "token_ids": [number % VOCABULARY_SIZE],
            }
            event = {"id": "cmpl", "object": "text_completion", "model": self._model, "choices": [choice]}
            writer.write(chunk(b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"))
            await writer.drain()
        writer.write(chunk(b"data: [DONE]\n\n") + chunk(b""))
        await writer.drain()


def tokens_of(body: Any) -> list[int]:
    """One token per word of a text or of messages."""
    text = body.get("prompt") or " ".join(str(message.get("content")) for message in body.get("messages", ()))
    return [1 + sum(word.encode()) % (VOCABULARY_SIZE - 1) for word in text.split()] or [1]


async def read_request(reader: asyncio.StreamReader) -> tuple[str, str, Any]:
    """Return method, path and JSON body of the next request."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, path, _ = head[0].split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return method, path, json.loads(body) if body else {}


async def reply(writer: asyncio.StreamWriter, value: Any, status: str = "200 OK") -> None:
    """Send a whole reply."""
    data = json.dumps(value).encode()
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    await writer.drain()


def chunk(data: bytes) -> bytes:
    """Return data as a chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


async def run(stand_in: StandIn, port: int) -> None:
    """Serve on loopback until killed; print the port when it listens."""
    server = await asyncio.start_server(stand_in.serve, "127.0.0.1", port, limit=HEADER_BYTES_MAX)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    async with server:
        await server.serve_forever()


def main() -> None:
    """Run a stand-in."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--rate", type=float, default=40.0, help="tokens per second of a stream")
    parser.add_argument("--prefill-ms", type=float, default=25.0, help="time to the first token")
    given = parser.parse_args()
    asyncio.run(run(StandIn(given.model, given.rate, given.prefill_ms / 1000), given.port))


if __name__ == "__main__":
    main()
