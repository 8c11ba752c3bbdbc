"""Models of the network's registry, for engines: fetched by CID through the model manager, checked, kept while used."""

from functools import partial
from pathlib import Path

import structlog
import trio

from node.models.downloads import DownloadFailedError
from node.models.identity import LocalModelId
from node.models.manager import ModelManager
from node.models.requests import IpfsRequest
from node.models.validation import ModelInvalidError, validate_model
from node.protocol.identifiers import Cid
from node.protocol.records import ModelRecord

log = structlog.get_logger(__name__)

RETRY_SECONDS = 3.0


class ModelLibrary:
    """What engines load: a model that is there is whole and valid, and stays while it is loaded."""

    def __init__(self, manager: ModelManager) -> None:
        self._manager = manager

    async def ensure(self, model: ModelRecord) -> Path:
        """Return where `model` lies, fetching it if needed; waits for providers as long as it takes.

        It counts as loaded, and is not evicted, until `release`. Raises ModelInvalidError if what the registry names
        is no model we load; it is not counted as loaded then.
        """
        request = _request(model.cid)
        while True:
            try:
                path = await self._manager.ensure(request)
                break
            except DownloadFailedError as error:
                if error.permanent:
                    raise ModelInvalidError(f"{model.model_id}: {error}") from error
                log.info("a model is not to be had yet", model=model.model_id, reason=str(error))
            await trio.sleep(RETRY_SECONDS)
        try:
            await trio.to_thread.run_sync(partial(validate_model, path, encrypted=model.encrypted))
        except BaseException:
            self.release(model.cid)
            raise
        log.info("a model is ready on disk", model=model.model_id, cid=model.cid)
        return path

    def release(self, cid: Cid) -> None:
        """Note that an engine no longer uses the model `cid`."""
        self._manager.release(LocalModelId(_request(cid).local_id()))


def _request(cid: Cid) -> IpfsRequest:
    try:
        return IpfsRequest(cid=cid)
    except ValueError as error:
        raise ModelInvalidError(f"{cid!r} is no CID") from error
