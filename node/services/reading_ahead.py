"""Has an engine read many prompts as background work, several questions ahead: it never waits for the next one."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence

import structlog
import trio

from node.ports import Engine, EngineFailedError, EngineRefusedError

log = structlog.get_logger(__name__)

PRIORITY = 10
"""Users' requests, at 0, run first."""
QUESTION_PROMPTS = 16
"""Prompts per question: few enough to stop in time, and together with those ahead enough to fill the engine's step."""
QUESTIONS_AT_ONCE = 3
"""One that the engine computes, one that waits for it, and one on its way: with a single one it stands still while its
server and this program read the answer, for a third of the time where a nonce takes it 2 ms."""
RETRY_SECONDS = 1.0

Prompts = Sequence[Sequence[int]]
Rows = list[list[float]]
"""Log-probabilities of the tokens of each prompt, as node.ports.Engine has them."""


class _Question:
    """Prompts on their way to an engine, and what became of them."""

    def __init__(self, prompts: Prompts) -> None:
        self._prompts = prompts
        self._is_over = trio.Event()
        self._rows: Rows = []
        self._error: EngineFailedError | EngineRefusedError | None = None
        self.is_to_be_asked = True

    def ask(self, engine: Engine, nursery: trio.Nursery) -> None:
        """Ask in the background."""
        self.is_to_be_asked, self._is_over, self._error = False, trio.Event(), None
        nursery.start_soon(self._ask, engine)

    async def _ask(self, engine: Engine) -> None:
        try:
            self._rows = await engine.prompt_logprobs(self._prompts, priority=PRIORITY)
        except (EngineFailedError, EngineRefusedError) as error:
            self._error = error
        self._is_over.set()

    async def rows(self) -> Rows:
        """Wait for the answer. Raises what the engine raised."""
        await self._is_over.wait()
        if self._error is not None:
            raise self._error
        return self._rows


async def read_ahead(
    engine: Engine,
    questions: Iterable[Prompts],
    take: Callable[[Rows], None],
    *,
    purpose: str,
    may_go_on: Callable[[], bool] = lambda: True,
) -> None:
    """Hand what the engine says of each question's prompts to `take`, in the questions' order.

    Returns when all are taken, or `may_go_on` says no: it is asked before every question and every repetition. `take`
    raises ValueError on numbers that are none, and takes nothing of them; such a question is asked again, as one that
    the engine failed to answer. Raises EngineRefusedError, with what came before taken. `purpose` is for the log.

    The first question goes alone, and each answer brings one more on its way: an engine computes what waits together,
    and one so slow that it answers few questions in all would answer its first one late.
    """
    coming, at_once = iter(questions), 1
    line: deque[_Question] = deque()
    refusal: EngineRefusedError | None = None
    async with trio.open_nursery() as nursery:
        while may_go_on():
            while len(line) < at_once and (prompts := next(coming, None)) is not None:
                line.append(_Question(prompts))
            if not line:
                break
            for question in line:
                if question.is_to_be_asked:
                    question.ask(engine, nursery)
                    await trio.lowlevel.checkpoint()  # it sets out before the next: trio starts tasks in any order
            try:
                take(await line[0].rows())
            except EngineRefusedError as error:
                refusal = error
                break
            except (EngineFailedError, ValueError) as error:
                log.warning("the engine failed; trying again", purpose=purpose, reason=str(error))
                await trio.sleep(RETRY_SECONDS)
                line[0].is_to_be_asked = True
            else:
                line.popleft()
                at_once = min(at_once + 1, QUESTIONS_AT_ONCE)
        nursery.cancel_scope.cancel()
    if refusal is not None:
        raise refusal
