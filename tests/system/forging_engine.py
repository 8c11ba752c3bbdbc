"""A cheat's engine: a real vLLM server behind a door that makes up all vectors it is asked for.

It passes everything else on, also what a validator asks for: whoever fakes its own nonces may judge those of others.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import h11
import httpx
import trio

from node.protocol.nonces import PROMPT_TOKENS

COMPLETIONS = b"/v1/completions"
REQUEST_BYTES_MAX = 16 * 1024 * 1024
RECEIVE_BYTES = 64 * 1024
PASSED_ON = (b"content-type",)


@asynccontextmanager
async def forging_engine(honest_url: str) -> AsyncIterator[str]:
    """Serve at a free port of loopback until the context is left; yield the URL."""
    async with (
        httpx.AsyncClient(base_url=honest_url, timeout=600, trust_env=False) as client,
        trio.open_nursery() as all_,
    ):
        serve = partial(_serve, client)
        listeners = await all_.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        all_.cancel_scope.cancel()


def is_mined(body: dict[str, object]) -> bool:
    """Whether somebody asks for nonces of its own: prompts of exactly that length. Validators append a tail."""
    prompts = body.get("prompt")
    if "prompt_logprobs" not in body or not isinstance(prompts, list):
        return False
    return all(isinstance(prompt, list) and len(prompt) == PROMPT_TOKENS for prompt in prompts)


def plainly(body: dict[str, object]) -> dict[str, object]:
    """Return the request without the wish for columns, so that log-probabilities are told one by one."""
    extra = body.get("vllm_xargs")
    wishes = {name: wish for name, wish in extra.items() if name != "quern_columns"} if isinstance(extra, dict) else {}
    return {**body, "vllm_xargs": wishes}


def forge(reply: dict[str, list[dict[str, list[dict[str, dict[str, float]] | None]]]]) -> None:
    """Replace the log-probabilities of every prompt by some that look like any others."""
    for choice in reply["choices"]:
        for place, entry in enumerate(choice["prompt_logprobs"]):
            for token, found in (entry or {}).items():
                found["logprob"] = -((7 * place + 13 * int(token)) % 19) / 2.0 - 0.1


async def _serve(client: httpx.AsyncClient, stream: trio.SocketStream) -> None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=REQUEST_BYTES_MAX)
    try:
        while True:
            request, body = await _receive(connection, stream)
            if request is None:
                return
            await _answer(client, connection, stream, request, body)
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()
    except (trio.BrokenResourceError, trio.ClosedResourceError, httpx.HTTPError, h11.ProtocolError):
        return  # either side has gone: the other one notices
    finally:
        await trio.aclose_forcefully(stream)


async def _receive(connection: h11.Connection, stream: trio.SocketStream) -> tuple[h11.Request | None, bytes]:
    request, body = None, bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some(RECEIVE_BYTES))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return request, bytes(body)
        else:
            return None, b""


async def _answer(
    client: httpx.AsyncClient, connection: h11.Connection, stream: trio.SocketStream, request: h11.Request, body: bytes
) -> None:
    """Pass a request on, and its answer back as it comes; a user who leaves ends the request there as well."""
    headers = {name.decode(): value.decode() for name, value in request.headers if name in PASSED_ON}
    mined = request.target == COMPLETIONS and is_mined(json.loads(body))
    if mined:
        body = json.dumps(plainly(json.loads(body))).encode()
    target, method = request.target.decode(), request.method.decode()
    async with client.stream(method, target, content=body, headers=headers) as reply:
        kind = reply.headers.get("content-type", "application/json")
        head = h11.Response(
            status_code=reply.status_code, headers=[("content-type", kind), ("transfer-encoding", "chunked")]
        )
        await stream.send_all(connection.send(head) or b"")
        if mined and reply.is_success:
            found = json.loads(await reply.aread())
            forge(found)
            await stream.send_all(connection.send(h11.Data(data=json.dumps(found).encode())) or b"")
        else:
            async for chunk in reply.aiter_bytes():
                await stream.send_all(connection.send(h11.Data(data=chunk)) or b"")
        await stream.send_all(connection.send(h11.EndOfMessage()) or b"")
