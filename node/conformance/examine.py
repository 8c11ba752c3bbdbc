"""Makes all checks of a server, one after another, each of which may fail without ending the rest."""

from collections.abc import Awaitable, Callable

import trio

from node.conformance import checks, miner_checks
from node.conformance.answers import MalformedError
from node.conformance.checks import COSTS, REMEDIES, Bench
from node.conformance.findings import CHAT_CHECKS, Check, Level, Mark, Report
from node.conformance.server import Server, ServerError

Examination = Callable[[Bench], Awaitable[Check]]
CHECK_SECONDS_MAX = 180.0
EMBEDDING = "embeddings"
COMPLETIONS_NEEDED = ("usage", "same answer", "streaming")
"""Compare with the answer that the check of token ids got."""

Examinations = tuple[tuple[str, Level | None, Examination], ...]

FIRST: Examinations = (
    ("health", None, miner_checks.health),
    ("models", Level.SERVE, checks.models),
    ("miner info", None, miner_checks.info),
    ("miner chat", Level.CHAT, miner_checks.chat),
    ("chat", Level.CHAT, checks.chat),
    ("version", Level.PROVE, checks.version),
    ("tokenize", Level.SERVE, checks.tokenize),
)
"""Of every server."""
GENERATING: Examinations = (
    ("token ids", Level.SERVE, checks.token_ids),
    ("usage", Level.SERVE, checks.usage),
    ("streaming", Level.SERVE, checks.streaming),
    ("seeds", Level.SERVE, checks.seeds),
    ("refusals", Level.SERVE, checks.refusals),
    ("logprobs", None, checks.logprobs),
    ("abort", None, checks.abort),
    ("prompt logprobs", Level.PROVE, checks.prompt_logprobs),
    ("priority", Level.PROVE, checks.priority),
    ("same answer", Level.AUDIT, checks.greedy),
    ("draws", Level.AUDIT, checks.draws),
)
EMBEDDINGS: Examinations = (
    (EMBEDDING, Level.SERVE, checks.embeddings),
    ("same vector", Level.PROVE, checks.same_vector),
    ("priority", Level.PROVE, checks.background_vectors),
)
"""Of a server that makes vectors and no tokens."""


async def examine(server: Server, model: str = "", tell: Callable[[Check], None] | None = None) -> Report:
    """Examine a server; `tell` is called with each check as soon as it is made. Without `model`, its first is asked."""
    bench = Bench(server, model)
    made: list[Check] = []
    reachable = await _reachable(server)
    if reachable is not None:
        return Report(model, "", (reachable,))

    async def make(examinations: Examinations) -> None:
        for name, level, examination in examinations:
            if name in COMPLETIONS_NEEDED and bench.greedy is None:
                check = Check(name, Mark.UNKNOWN, "cannot be told without token ids", level)
            else:
                check = await _make(name, level, examination, bench)
            made.append(check)
            if tell is not None:
                tell(check)

    await make(FIRST)
    chats = any(check.name in CHAT_CHECKS and check.mark is Mark.HOLDS for check in made)
    vectors = not chats and (await _make(EMBEDDING, Level.SERVE, checks.embeddings, bench)).mark is Mark.HOLDS
    await make(EMBEDDINGS if vectors else GENERATING)
    return Report(bench.model, bench.version, tuple(made))


async def _reachable(server: Server) -> Check | None:
    """Return the failing check if nothing answers at all."""
    try:
        await server.text("/health")
    except ServerError as error:
        if error.status is None:
            remedy = "Is it running, and the address right?"
            return Check("reachable", Mark.MISSING, str(error), Level.CHAT, "it cannot be asked", remedy)
        if error.status in (401, 403):
            remedy = "Name a file with its key by --api-key-file."
            return Check("reachable", Mark.WRONG, str(error), Level.CHAT, "it cannot be asked", remedy)
    return None


async def _make(name: str, level: Level | None, examination: Examination, bench: Bench) -> Check:
    cost, remedy = COSTS.get(name, ""), REMEDIES.get(name, "")
    try:
        with trio.fail_after(CHECK_SECONDS_MAX):
            return await examination(bench)
    except trio.TooSlowError:
        return Check(name, Mark.WRONG, f"it took longer than {CHECK_SECONDS_MAX:.0f} s", level, cost, remedy)
    except ServerError as error:
        mark = Mark.MISSING if error.is_refusal or error.is_missing else Mark.WRONG
        return Check(name, mark, str(error), level, cost, remedy)
    except MalformedError as error:
        return Check(name, Mark.WRONG, str(error), level, cost, remedy)
    except (TypeError, KeyError, AttributeError, IndexError, ValueError) as error:  # a reply of another shape
        return Check(name, Mark.WRONG, f"its reply cannot be read: {error!r:.100}", level, cost, remedy)
