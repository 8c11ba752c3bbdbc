"""Puts together what one HTTP listener serves: the miner API and prices on every daemon, the gateway's API on those."""

import socket
from collections.abc import Callable

from starlette.applications import Starlette

from node.api.faces import compose
from node.api.miner import MinerApi, NodeFacts
from node.api.pricing import PricingApi
from node.ports import Chain, WallClock
from node.protocol.identifiers import ModelId
from node.protocol.records import EpochGroup, ModelRecord
from node.services.local_chat import LocalChat
from node.settings import Role, Settings
from node.version import package_version


def has_api(settings: Settings) -> bool:
    """Whether there is anything to serve: a gateway, or engines that a miner's callers may ask."""
    return settings.has_role(Role.GATEWAY) or bool(settings.engines)


def whole_app(
    chain: Chain,
    group: Callable[[], EpochGroup],
    chat: LocalChat,
    gateway_app: Starlette | None,
    started_at: int,
    wall_clock: WallClock,
) -> Starlette:
    """Return the application of the listener."""

    def model_of(model_id: ModelId) -> ModelRecord | None:
        return chain.state.models.get(model_id)

    facts = NodeFacts(package_version(), lambda: wall_clock() - started_at, model_of)
    routes = (*MinerApi(chat, facts, wall_clock).routes(), *PricingApi(chain, group).routes())
    return compose(routes, gateway_app)


def url_of(listener: socket.socket, *, is_gateway: bool) -> str:
    """Return where the listener is reached: a gateway's with `/v1`, as OpenAI's clients want it."""
    host, port = listener.getsockname()[:2]
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return f"http://{authority}" + ("/v1" if is_gateway else "")
