"""The checks of a server with OpenAI's API: each asks a little and says what holds, what lacking it costs, what to do.

Each is an async function of the bench (what is known so far) that returns its Check. A ServerError or MalformedError
that a check does not expect is that check's failure (see examine.py).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import trio

from node.conformance.answers import Completion, MalformedError, first_choice, read_completion, read_ids
from node.conformance.findings import Check, Level, Mark
from node.conformance.server import Server, ServerError
from node.engine.drawing import DrawStyle, find_draw_style, read_token_id
from node.engine.identity import ENGINE_NAME
from node.engine.vectors import read_vectors
from node.engine.winners import finds_winners
from node.ports import EngineFailedError, EngineRefusedError
from node.protocol.engines import ENGINE_RANGE_DEFAULT
from node.services.embedding import floats_of
from node.services.embedding_frames import FLOAT_BYTES
from node.services.groups import sole_error

TEXT = "The quern is a hand mill. It grinds"
TOKENS = 16
TOKENS_MANY = 100_000
ABORT_TOKENS_MAX = 4096
ABORT_SECONDS_MAX = 10.0
AT_ONCE = 8
LOGPROB_TOLERANCE = 0.05
"""Between one and eight prompts at once, on one machine: honest servers differ by far less (facts: by nothing)."""
MINING_PRIORITY = 10
RUNNING_METRIC = "vllm:num_requests_running"


@dataclass(slots=True)
class Bench:
    """What is known of a server while it is examined."""

    server: Server
    model: str = ""
    prompt_ids: tuple[int, ...] = ()
    """Of TEXT, if the server tokenizes; else those it says it read."""
    greedy: Completion | None = None
    """The answer to TEXT at temperature 0."""
    version: str = ""
    served: list[str] = field(default_factory=list)

    def body(self, **fields: object) -> dict[str, object]:
        """A request for a few tokens after TEXT."""
        prompt: object = list(self.prompt_ids) if self.prompt_ids else TEXT
        return {"model": self.model, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, **fields}

    async def complete(self, **fields: object) -> Completion:
        """Ask for it."""
        return read_completion(await self.server.post("/v1/completions", self.body(**fields)))


async def models(bench: Bench) -> Check:
    """Which models it serves; chooses the one to ask."""
    reply = await bench.server.get("/v1/models")
    entries = reply.get("data") if isinstance(reply, dict) else None
    if not isinstance(entries, list):
        raise MalformedError("/v1/models has no data")
    names = [entry["id"] for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
    bench.served = names
    name, level = "models", Level.SERVE
    if bench.model and bench.model not in names:
        message = f"it serves {', '.join(names) or 'nothing'}, not {bench.model}"
        remedy = f"Start it with --served-model-name {bench.model}: the registry's id."
        return Check(name, Mark.WRONG, message, level, "the network asks for models by their id", remedy)
    if not names:
        return Check(name, Mark.WRONG, "it serves no model", level, "there is nothing to ask", "Load a model.")
    bench.model = bench.model or names[0]
    return Check(name, Mark.HOLDS, f"it serves {', '.join(names)}", level)


async def version(bench: Bench) -> Check:
    """Which engine it is: the network names the versions that a model is run with."""
    reply = await bench.server.get("/version")
    found = reply.get("version") if isinstance(reply, dict) else None
    if not isinstance(found, str):
        raise MalformedError("/version has no version")
    bench.version = f"vLLM {found[:40]}"
    outside = ENGINE_RANGE_DEFAULT.why_not(ENGINE_NAME, found)
    if outside is not None:
        return _wrong("version", outside, Level.PROVE)
    return Check("version", Mark.HOLDS, f"it says it is {bench.version}, which the network knows", Level.PROVE)


async def chat(bench: Bench) -> Check:
    """OpenAI's chat."""
    body = {"model": bench.model, "messages": [{"role": "user", "content": TEXT}], "max_tokens": TOKENS}
    answer = read_completion(await bench.server.post("/v1/chat/completions", {**body, "temperature": 0}))
    return Check("chat", Mark.HOLDS, f"/v1/chat/completions answers ({answer.finish_reason})", Level.CHAT)


async def tokenize(bench: Bench) -> Check:
    """Texts and conversations to token ids, with the model's own chat template."""
    reply = await bench.server.post("/tokenize", {"model": bench.model, "prompt": TEXT, "add_special_tokens": True})
    ids = read_ids(reply.get("tokens") if isinstance(reply, dict) else None)
    if not ids:
        raise MalformedError("/tokenize tells no tokens")
    bench.prompt_ids = ids
    messages = {"model": bench.model, "messages": [{"role": "user", "content": TEXT}], "add_generation_prompt": True}
    reply = await bench.server.post("/tokenize", messages)
    if not read_ids(reply.get("tokens") if isinstance(reply, dict) else None):
        raise MalformedError("/tokenize tells no tokens of a conversation")
    return Check("tokenize", Mark.HOLDS, f"a text of {len(TEXT)} characters has {len(ids)} tokens", Level.SERVE)


async def token_ids(bench: Bench) -> Check:
    """Prompts in token ids, answers with theirs."""
    bench.greedy = answer = await bench.complete(return_token_ids=True)
    if not answer.token_ids:
        raise ServerError("the answer tells no token ids", 404)
    if bench.prompt_ids and answer.prompt_ids not in (None, bench.prompt_ids):
        return _wrong("token ids", "it read another prompt than it was given", Level.SERVE)
    return Check("token ids", Mark.HOLDS, f"an answer of {len(answer.token_ids)} tokens tells each", Level.SERVE)


async def usage(bench: Bench) -> Check:
    """Counts that equal the ids: they are what is paid for."""
    answer = _known(bench)
    told, given = answer.completion_tokens, len(answer.token_ids or ())
    if told != given:
        return _wrong("usage", f"it says {told} tokens and gives {given}", Level.SERVE)
    if answer.prompt_tokens != len(bench.prompt_ids):
        message = f"it says {answer.prompt_tokens} prompt tokens, there are {len(bench.prompt_ids)}"
        return _wrong("usage", message, Level.SERVE)
    return Check("usage", Mark.HOLDS, "counts equal the ids that were given", Level.SERVE)


async def greedy(bench: Bench) -> Check:
    """The same answer to the same prompt at temperature 0, alone and beside others."""
    answers: list[Completion] = []

    async def ask() -> None:
        answers.append(await bench.complete(return_token_ids=True))

    with sole_error():
        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(ask)
    different = {answer.token_ids for answer in answers} | {_known(bench).token_ids}
    if len(different) > 1:
        message = f"{AT_ONCE} equal requests at once gave {len(different)} answers"
        return Check("same answer", Mark.WRONG, message, Level.AUDIT, "audits would find faults that are none")
    return Check("same answer", Mark.HOLDS, f"{AT_ONCE} equal requests at once give one answer", Level.AUDIT)


async def seeds(bench: Bench) -> Check:
    """A seed fixes the answer; another seed gives another."""

    async def ask(seed: int) -> tuple[int, ...] | str:
        answer = await bench.complete(return_token_ids=True, temperature=1.5, seed=seed, ignore_eos=True)
        return answer.token_ids or answer.text

    first, again = await ask(7), await ask(7)
    if first != again:
        return _wrong("seeds", "one seed gave two answers", Level.SERVE)
    if first == await ask(8) == await ask(9):
        return _wrong("seeds", "other seeds give the same answer", Level.SERVE)
    return Check("seeds", Mark.HOLDS, "a seed fixes the answer, another gives another", Level.SERVE)


async def streaming(bench: Bench) -> Check:
    """Pieces with their ids, an end with its reason, the same tokens as in one piece."""
    ids: list[int] = []
    text, reason, pieces = "", None, 0
    async with bench.server.stream("/v1/completions", bench.body(stream=True, return_token_ids=True)) as events:
        async for event in events:
            if event.get("choices") == []:
                continue
            choice = first_choice(event)
            ids += read_ids(choice.get("token_ids")) or ()
            text += choice.get("text") or ""
            reason = choice.get("finish_reason") or reason
            pieces += 1
    whole = _known(bench)
    if reason not in ("stop", "length"):
        return _wrong(
            "streaming", "a stream ends without a finish_reason: an end cannot be told from a cut", Level.SERVE
        )
    if whole.token_ids is not None and tuple(ids) != whole.token_ids:
        return _wrong("streaming", "a stream has other tokens than the same answer in one piece", Level.SERVE)
    if text != whole.text:
        return _wrong("streaming", "a stream has another text than the same answer in one piece", Level.SERVE)
    if pieces < 2:
        return _wrong("streaming", "a stream comes in one piece: users wait for all of it", Level.SERVE)
    return Check("streaming", Mark.HOLDS, f"{pieces} pieces, their end has a reason", Level.SERVE)


async def refusals(bench: Bench) -> Check:
    """A request that cannot be served is refused as the user's fault, and the server lives on."""
    for what, fields in (
        ("more tokens than its context", {"max_tokens": TOKENS_MANY * 1000}),
        ("a temperature below zero", {"temperature": -1}),
        ("a token that does not exist", {"prompt": [2**31 - 1]}),
    ):
        try:
            await bench.server.post("/v1/completions", bench.body(**fields))
        except ServerError as error:
            if not error.is_refusal:
                return _wrong("refusals", f"asked for {what}, {error}", Level.SERVE)
    await bench.complete()
    return Check(
        "refusals", Mark.HOLDS, "what cannot be served is refused, and the next request is answered", Level.SERVE
    )


async def priority(bench: Bench) -> Check:
    """Work that yields to users' requests."""
    await bench.complete(priority=MINING_PRIORITY)
    return Check("priority", Mark.HOLDS, "it takes requests of lower priority", Level.PROVE)


async def abort(bench: Bench) -> Check:
    """A reader that leaves frees the engine."""
    name = "abort"
    if await _running(bench) is None:
        message = "it has no /metrics that tell how many requests run"
        return Check(name, Mark.UNKNOWN, message, None, "users who leave may keep it busy")
    body = bench.body(max_tokens=ABORT_TOKENS_MAX, stream=True, ignore_eos=True)
    try:
        await _leave(bench, body)
    except ServerError as error:
        if not error.is_refusal:
            raise
        await _leave(bench, {**body, "max_tokens": 8 * TOKENS})  # a short context
    began = trio.current_time()
    while (running := await _running(bench)) != 0:
        if trio.current_time() - began > ABORT_SECONDS_MAX:
            message = f"{running} requests run {ABORT_SECONDS_MAX:.0f} s after their reader left"
            return Check(name, Mark.WRONG, message, None, "users who leave keep it busy; nobody pays for that")
        await trio.sleep(0.1)
    return Check(name, Mark.HOLDS, f"a reader that leaves frees it within {trio.current_time() - began:.1f} s")


async def logprobs(bench: Bench) -> Check:
    """How likely each token was, and the texts of tokens: what users may ask for."""
    reply = await bench.server.post(
        "/v1/completions", bench.body(logprobs=2, return_token_ids=True, return_tokens_as_token_ids=True)
    )
    told = first_choice(reply).get("logprobs")
    told = told if isinstance(told, dict) else {}
    words, values = told.get("tokens"), told.get("token_logprobs")
    if not isinstance(words, list) or not isinstance(values, list) or len(words) != len(values) or not words:
        raise ServerError("the answer has no log-probability for each of its tokens", 404)
    token = read_token_id(words[0])
    text = await bench.server.post("/detokenize", {"model": bench.model, "tokens": [token]})
    if not isinstance(text, dict) or not isinstance(text.get("prompt"), str):
        raise MalformedError("/detokenize tells no text")
    return Check("logprobs", Mark.HOLDS, f"{len(words)} tokens with their log-probabilities")


async def embeddings(bench: Bench) -> Check:
    """Vectors of prompts in token ids."""
    (vector,) = await _vectors(bench, 1)
    return Check("embeddings", Mark.HOLDS, f"vectors of {len(vector) // FLOAT_BYTES} numbers", Level.SERVE)


async def same_vector(bench: Bench) -> Check:
    """The same vector alone and among others: what an embedding model's proofs are made of."""
    name = "same vector"
    (alone,) = await _vectors(bench, 1)
    several = await _vectors(bench, AT_ONCE)
    pairs = (zip(floats_of(alone), floats_of(other), strict=True) for other in several)
    widest = max(abs(a - b) for pair in pairs for a, b in pair)
    if widest > LOGPROB_TOLERANCE:
        return _wrong(name, f"one text alone and among {AT_ONCE} differs by {widest:.3f}", Level.PROVE)
    return Check(name, Mark.HOLDS, f"one text alone and among {AT_ONCE}, within {widest:.4f}", Level.PROVE)


async def background_vectors(bench: Bench) -> Check:
    """Vectors that yield to users' requests."""
    await _vectors(bench, 1, priority=MINING_PRIORITY)
    return Check("priority", Mark.HOLDS, "it takes requests of lower priority", Level.PROVE)


async def _vectors(bench: Bench, count: int, **fields: object) -> list[bytes]:
    body = {"model": bench.model, "input": [list(bench.prompt_ids) or [1, 2, 3]] * count, "encoding_format": "base64"}
    reply = await bench.server.post("/v1/embeddings", {**body, **fields})
    try:
        vectors = read_vectors(reply if isinstance(reply, dict) else {}, count)
    except EngineFailedError as error:
        raise MalformedError(str(error)) from error
    if len({len(vector) for vector in vectors}) != 1 or not vectors[0]:
        raise MalformedError("vectors of one model have different lengths")
    return vectors


async def prompt_logprobs(bench: Bench) -> Check:
    """Log-probabilities of a prompt's tokens: what proofs and audits are made of."""
    name = "prompt logprobs"
    prompts = [list(bench.prompt_ids) or [1, 2, 3]] * AT_ONCE
    single = await _prompt_logprobs(bench, prompts[:1])
    several = await _prompt_logprobs(bench, prompts)
    if len(several) != AT_ONCE:
        return _wrong(name, f"{AT_ONCE} prompts in one request gave {len(several)} answers", Level.PROVE)
    widest = max(abs(a - b) for one in several for a, b in zip(single[0], one, strict=True))
    if widest > LOGPROB_TOLERANCE:
        message = f"one prompt alone and among {AT_ONCE} differ by {widest:.3f}"
        return Check(name, Mark.WRONG, message, Level.PROVE, "its own proofs would be voted invalid")
    message = f"{len(single[0])} tokens of a prompt, alone and among {AT_ONCE}, within {widest:.4f}"
    return Check(name, Mark.HOLDS, message, Level.PROVE)


async def draws(bench: Bench) -> Check:
    """Tokens drawn by the network's rule, so that an audit can tell them from any other."""

    async def post(path: str, body: dict[str, object]) -> dict[str, Any]:
        try:
            reply = await bench.server.post(path, {"model": bench.model, **body})
        except ServerError as error:
            raise (EngineRefusedError if error.is_refusal else EngineFailedError)(str(error)) from error
        return reply if isinstance(reply, dict) else {}

    name = "draws"
    try:
        style = await find_draw_style(post)
        winners = style is DrawStyle.PLUGIN and await finds_winners(post)
    except (EngineFailedError, EngineRefusedError) as error:
        return Check(name, Mark.MISSING, str(error), Level.AUDIT, COSTS[name], REMEDIES[name])
    if style is DrawStyle.NONE:
        message = "its tokens are not those that the network's rule draws"
        return Check(name, Mark.MISSING, message, Level.AUDIT, COSTS[name], REMEDIES[name])
    reads = "the rule's winner at each place" if winners else "the likeliest tokens alone, so audits by it take longer"
    message = f"it draws by the network's rule, by {style.value}; of a prompt it tells {reads}"
    return Check(name, Mark.HOLDS, message, Level.AUDIT)


async def _prompt_logprobs(bench: Bench, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
    body = {"model": bench.model, "prompt": [list(prompt) for prompt in prompts], "max_tokens": 1, "temperature": 0}
    reply = await bench.server.post("/v1/completions", {**body, "prompt_logprobs": 0})
    first_choice(reply)
    found = []
    for prompt, choice in zip(prompts, sorted(reply["choices"], key=_index), strict=False):
        entries = choice.get("prompt_logprobs") if isinstance(choice, dict) else None
        if not isinstance(entries, list) or len(entries) != len(prompt):
            raise ServerError("the answer has no log-probability for each token of the prompt", 404)
        found.append([_logprob(entry, token) for token, entry in zip(prompt[1:], entries[1:], strict=True)])
    return found


def _logprob(entry: Any, token: int) -> float:
    told = entry.get(str(token)) if isinstance(entry, dict) else None
    value = told.get("logprob") if isinstance(told, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value > 0:
        raise MalformedError("a token of the prompt has no log-probability")
    return float(value)


def _index(choice: Any) -> int:
    index = choice.get("index") if isinstance(choice, dict) else None
    return index if isinstance(index, int) else 0


async def _leave(bench: Bench, body: dict[str, object]) -> None:
    async with bench.server.stream("/v1/completions", body) as events:
        async for _ in events:
            return


async def _running(bench: Bench) -> float | None:
    """How many requests the server says it runs; None if it does not say."""
    try:
        lines = (await bench.server.text("/metrics")).splitlines()
    except ServerError:
        return None
    values = [line.rpartition(" ")[2] for line in lines if line.startswith(RUNNING_METRIC)]
    try:
        return sum(float(value) for value in values) if values else None
    except ValueError:
        return None


def _known(bench: Bench) -> Completion:
    if bench.greedy is None:
        raise ServerError("needs an answer with token ids", 404)
    return bench.greedy


def _wrong(name: str, message: str, level: Level) -> Check:
    return Check(name, Mark.WRONG, message, level, COSTS.get(name, ""), REMEDIES.get(name, ""))


COSTS = {
    "version": "the network draws only versions that a model is known to be the same with",
    "tokenize": "prompts cannot be counted before they are paid for",
    "token ids": "tokens can be neither counted nor committed to, and no other node can go on with an answer",
    "usage": "what it counts is not what it gives: gateways refuse its receipts",
    "streaming": "gateways take a cut answer for a failure of this node",
    "seeds": "an answer cannot be continued or checked",
    "refusals": "one bad request costs other users their answers",
    "priority": "mining keeps users waiting",
    "logprobs": "requests for log-probabilities fail",
    "prompt logprobs": "it cannot prove work or check that of others: no weight, not drawn, no rewards",
    "embeddings": "it makes neither tokens nor vectors for the network",
    "same vector": "its own proofs would be voted invalid",
    "draws": "what it answers cannot be audited",
}
REMEDIES = {
    "version": "Use vLLM, or a server with its API.",
    "tokenize": "Use vLLM, or a server with its /tokenize.",
    "token ids": "Use vLLM 0.10.2 or newer, which knows return_token_ids.",
    "priority": "Start vLLM with --scheduling-policy priority.",
    "prompt logprobs": "Use vLLM, which knows prompt_logprobs.",
    "chat": "Give the model a chat template.",
    "draws": "Let the daemon start vLLM itself, or start it with the daemon's plug-in (docs/operators.md).",
}
