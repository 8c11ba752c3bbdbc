"""The checks of a server with the miner API (C1): `/health`, `/info`, `/api/chat`."""

from typing import Any

from node.conformance.answers import MalformedError
from node.conformance.checks import TEXT, TOKENS, Bench
from node.conformance.findings import Check, Level, Mark


async def health(bench: Bench) -> Check:
    """Whether it says how it is; a body is the guide's, an empty one vLLM's."""
    reply = await bench.server.get("/health")
    name, remedy = "health", 'Answer GET /health with {"status": "healthy", "model_loaded": true, "uptime": "…"}.'
    cost = "that it is wedged is found only by asking it for tokens"
    if reply is None:
        return Check(name, Mark.HOLDS, "/health answers 200")
    if not isinstance(reply, dict) or "status" not in reply:
        return Check(name, Mark.WRONG, "/health answers something else than a status", None, cost, remedy)
    if reply.get("model_loaded") is False:
        return Check(name, Mark.WRONG, "/health says that no model is loaded", None, cost, "Wait until it is loaded.")
    return Check(name, Mark.HOLDS, f"/health says {str(reply['status'])[:40]!r}")


async def info(bench: Bench) -> Check:
    """What it says it serves."""
    reply = _object(await bench.server.get("/info"), "/info")
    name = reply.get("model_name")
    length = reply.get("max_context_length")
    if not isinstance(name, str) or not name:
        raise MalformedError("/info has no model_name")
    if length is not None and (type(length) is not int or length < 1):
        raise MalformedError("max_context_length of /info is not a number of tokens")
    bench.model = bench.model or name
    return Check("miner info", Mark.HOLDS, f"/info says {name}, context {length or 'not told'}")


async def chat(bench: Bench) -> Check:
    """The guide's chat."""
    body = {"prompt": TEXT, "temperature": 0.2, "max_tokens": TOKENS}
    reply = _object(await bench.server.post("/api/chat", body), "/api/chat")
    if not isinstance(reply.get("response"), str):
        raise MalformedError("/api/chat has no response")
    missing = [key for key in ("model", "timestamp", "processing_time") if key not in reply]
    if missing:
        raise MalformedError(f"/api/chat has no {', '.join(missing)}")
    return Check("miner chat", Mark.HOLDS, f"/api/chat answers as {str(reply['model'])[:64]}", Level.CHAT)


def _object(reply: Any, path: str) -> dict[str, Any]:
    if not isinstance(reply, dict):
        raise MalformedError(f"{path} answers no object")
    return reply
