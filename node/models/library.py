"""Models on this machine: fetched by CID, validated, ready for an engine."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import structlog
import trio

from node.models.content import ContentAdapter
from node.models.validation import ModelInvalidError, validate_model
from node.ports import ContentUnavailableError, Provider
from node.protocol.records import ModelRecord

log = structlog.get_logger(__name__)

RETRY_SECONDS = 3.0
PROGRESS_PERCENT_STEP = 10


class ModelLibrary:
    """A directory of models, one per CID: a model that is there is whole and valid."""

    def __init__(self, content: ContentAdapter, directory: Path) -> None:
        self._content = content
        self._directory = directory

    async def ensure(self, model: ModelRecord, providers: Callable[[], Sequence[Provider]]) -> Path:
        """Return where `model` lies, fetching it if needed; waits for providers as long as it takes.

        Raises ModelInvalidError if what the registry names is no model we load.
        """
        path = self._directory / model.cid
        while True:
            try:
                await self._content.ensure_directory(
                    model.cid, providers(), path, progress=_progress_logger(model.model_id)
                )
                break
            except ContentUnavailableError as error:
                log.info("a model is not to be had yet", model=model.model_id, reason=str(error))
            except ValueError as error:
                raise ModelInvalidError(f"{model.model_id}: {error}") from error
            await trio.sleep(RETRY_SECONDS)
        await trio.to_thread.run_sync(partial(validate_model, path, encrypted=model.encrypted))
        log.info("a model is ready on disk", model=model.model_id, cid=model.cid)
        return path


def _progress_logger(model_id: str) -> Callable[[int, int | None], None]:
    last = -1

    def report(held: int, total: int | None) -> None:
        nonlocal last
        step = -1 if not total else held * 100 // total // PROGRESS_PERCENT_STEP
        if step > last:
            last = step
            log.info("fetching a model", model=model_id, percent=step * PROGRESS_PERCENT_STEP, bytes=held)

    return report
