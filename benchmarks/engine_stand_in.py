"""A stand-in for a vLLM server on a GPU: the same HTTP, tokens at the pace of a GPU, hardly any processor time.

.venv/bin/python -m benchmarks.engine_stand_in --port PORT [--model NAME] [--pace step|stream] [--rate 40]

What it measures is everything around an engine: its tokens are numbers in a row and mean nothing. It answers what a
daemon asks of its engine (health, models, version, tokens of a text, log-probabilities of prompts, generation, whole
and streamed), with the fields of vLLM 0.32. Plain asyncio, because the less it takes the more is left to measure.
"""

import argparse
import asyncio
import json
import math
import time
from dataclasses import dataclass, field
from typing import Any

VOCABULARY_SIZE = 3072
HEADER_BYTES_MAX = 64 * 1024
PIECE = " t"
TIMER_SECONDS = 0.001
"""What asyncio's timers can tell apart: what is due sooner is due now."""
APART_US = 75.0
"""As vLLM's server: benchmarks/steps.py."""
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


@dataclass(slots=True, eq=False)
class Answer:
    """A streamed answer in the making."""

    writer: asyncio.StreamWriter
    model: str
    count: int
    given: int = 0
    prefill_steps: int = 1
    """Steps until its first token, that of the token included."""
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def give(self) -> None:
        """Send the next token, without waiting."""
        choice = {
            "index": 0,
            "text": PIECE,
            "logprobs": None,
            "finish_reason": "length" if self.given == self.count - 1 else None,
            "stop_reason": None,
            "token_ids": [self.given % VOCABULARY_SIZE],
        }
        event = {"id": "cmpl", "object": "text_completion", "model": self.model, "choices": [choice]}
        self.given += 1
        if not self.writer.is_closing():  # else who asked has left
            self.writer.write(chunk(b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"))
        if self.given == self.count or self.writer.is_closing():
            self.done.set()


class StreamPace:
    """Each answer has a clock of its own: the tokens of many are spread evenly. No engine that batches does this."""

    def __init__(self, step_seconds: float, prefill_seconds: float) -> None:
        self._step_seconds = step_seconds
        self._prefill_seconds = prefill_seconds

    async def run(self, answer: Answer) -> None:
        """Have an answer given; the clock is absolute, so that a late token does not delay those after it."""
        due = time.perf_counter() + self._prefill_seconds
        while not answer.done.is_set():
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            answer.give()
            await answer.writer.drain()
            due += self._step_seconds


class StepPace:
    """One clock for all answers, as vLLM has: each step gives every running answer a token, and all are sent together.

    A request joins at the next step's beginning. Its prompt is read in that step, beside the tokens of the others, or
    in as many as `prefill_seconds` take: so its first token comes with a step's end.
    """

    def __init__(self, step_seconds: float, prefill_seconds: float, apart_seconds: float) -> None:
        """`apart_seconds`: from one answer's token to the next one's, in a step's burst."""
        self._step_seconds = step_seconds
        self._prefill_steps = max(1, math.ceil(prefill_seconds / step_seconds))
        self._apart_seconds = apart_seconds
        self._running: list[Answer] = []
        self._engine: asyncio.Task[None] | None = None

    async def run(self, answer: Answer) -> None:
        """Have an answer given."""
        answer.prefill_steps = self._prefill_steps
        self._running.append(answer)
        if self._engine is None or self._engine.done():
            self._engine = asyncio.create_task(self._steps())
        await answer.done.wait()

    async def _steps(self) -> None:
        """Make steps while there is work; after a silence the first begins at once."""
        due = time.perf_counter()
        while self._running:
            batch = tuple(self._running)
            due = max(due + self._step_seconds, time.perf_counter())
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            sent = 0
            for answer in batch:
                answer.prefill_steps -= 1
                if answer.prefill_steps > 0:
                    continue
                ahead = due + sent * self._apart_seconds - time.perf_counter()
                if ahead > TIMER_SECONDS:
                    await asyncio.sleep(ahead)
                answer.give()
                sent += 1
            self._running = [answer for answer in self._running if not answer.done.is_set()]


class StandIn:
    """Answers requests of one model."""

    def __init__(self, model: str, pace: StreamPace | StepPace) -> None:
        self._model = model
        self._pace = pace

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
        writer.write(HEAD)
        await self._pace.run(Answer(writer, self._model, body.get("max_tokens", 16)))
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
    parser.add_argument("--pace", choices=("step", "stream"), default="step", help="one clock for all streams, or each")
    parser.add_argument("--apart-us", type=float, default=APART_US, help="between the tokens of a step")
    given = parser.parse_args()
    step_seconds, prefill_seconds = 1 / given.rate, given.prefill_ms / 1000
    by_step = StepPace(step_seconds, prefill_seconds, given.apart_us / 1e6)
    by_stream = StreamPace(step_seconds, prefill_seconds)
    asyncio.run(run(StandIn(given.model, by_step if given.pace == "step" else by_stream), given.port))


if __name__ == "__main__":
    main()
