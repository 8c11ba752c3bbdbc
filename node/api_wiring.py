"""Puts together what one HTTP listener serves: the miner API and prices on every daemon, the gateway's API on those.

Before the gateway stand, from the outside in: what measures it, and the cache of answers where there is one.
"""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from node.api.faces import compose
from node.api.miner import MinerApi, NodeFacts
from node.api.openai.gatekeeper import Gatekeeper
from node.api.pricing import PricingApi
from node.api.server import bind_api, serve_api
from node.openai_wiring import gateway_app
from node.ports import Chain, Engine, WallClock
from node.protocol.identifiers import ModelId
from node.protocol.records import ModelRecord
from node.services.answer_cache import AnswerCache, CachingAsker
from node.services.epochs import EpochBook
from node.services.gateway import Gateway
from node.services.local_chat import LocalChat
from node.services.prompt_desk import PromptDesk
from node.settings import Settings
from node.supervisor import Supervisor
from node.telemetry.gateway import MeasuredAsker, MeasuredVectors
from node.telemetry.instruments import Instruments
from node.version import package_version


@dataclass(frozen=True, slots=True)
class Serving:
    """What is served over HTTP, for those who show it."""

    url: str | None
    """Of a gateway with `/v1`, as OpenAI's clients want it; of a miner without; None where nothing is served."""
    chat: LocalChat
    cache: AnswerCache | None
    instruments: Instruments


def add_api(
    settings: Settings,
    chain: Chain,
    epochs: EpochBook,
    engines: Sequence[Engine],
    gateway: Gateway | None,
    gatekeeper: Gatekeeper,
    prompts: PromptDesk,
    supervisor: Supervisor,
    started_at: int,
    wall_clock: WallClock,
) -> Serving:
    """Serve what this daemon has to serve: a gateway, or engines that its callers may ask. Raises ApiPortError."""
    chat = LocalChat(engines, lambda: [ModelId(engine.model_id) for engine in settings.engines])
    cache = AnswerCache(settings.api.cache_bytes_max) if settings.api.cache_bytes_max else None
    instruments = Instruments()
    if gateway is None and not engines:
        return Serving(None, chat, cache, instruments)

    def model_of(model_id: ModelId) -> ModelRecord | None:
        return chain.state.models.get(model_id)

    facts = NodeFacts(package_version(), lambda: wall_clock() - started_at, model_of)
    routes = (*MinerApi(chat, facts, wall_clock, gatekeeper.opens).routes(), *PricingApi(chain, epochs.group).routes())
    users = None
    if gateway is not None:
        asked = gateway if cache is None else CachingAsker(gateway, cache)
        measured = MeasuredAsker(asked, instruments)
        vectors = MeasuredVectors(gateway.vectors, gateway.models, instruments)
        users = gateway_app(settings.api, measured, gatekeeper, wall_clock, vectors, prompts=prompts)
    listener = bind_api(settings.api.host, settings.api.port)
    supervisor.add(
        "api", partial(serve_api, compose(routes, users, settings.api.cors_origins), listener), essential=True
    )
    return Serving(_url(listener, is_gateway=gateway is not None), chat, cache, instruments)


def _url(listener: socket.socket, *, is_gateway: bool) -> str:
    host, port = listener.getsockname()[:2]
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return f"http://{authority}" + ("/v1" if is_gateway else "")
