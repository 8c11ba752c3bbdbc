"""The control socket's methods about API keys."""

from typing import Protocol

from node.control.key_views import KeysView
from node.control.methods import Emit, Method, NoParams
from node.control.views import View


class KeyOperations(Protocol):
    """What the daemon tells of API keys. Methods raise RpcError for what can be acted on."""

    async def usage(self) -> KeysView:
        """Return all keys and what they have spent."""


def key_method_table(operations: KeyOperations) -> dict[str, Method]:
    """Return all methods by name."""

    async def usage(_params: NoParams, _emit: Emit) -> View:
        return await operations.usage()

    return {"key_usage": Method(NoParams, usage)}
