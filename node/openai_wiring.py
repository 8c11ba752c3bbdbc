"""Puts together what the OpenAI API needs: keys, what they have spent, prices, and the application over the gateway."""

import trio
from starlette.applications import Starlette

from node.api.keys import KeyBook, read_api_keys
from node.api.openai import make_app
from node.api.openai.application import VectorSource
from node.api.openai.gatekeeper import Gatekeeper
from node.api.prompts import PromptApi
from node.operations.keys import DaemonKeyOperations
from node.ports import Chain, WallClock
from node.protocol.pricing import price
from node.protocol.records import ModelRecord
from node.services.asking import Asker
from node.services.prompt_desk import PromptDesk
from node.settings import Role, Settings, SettingsError
from node.settings.sections.api import ApiSettings
from node.store.database import Database
from node.store.key_spending import KeySpending

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


def open_gatekeeper(
    settings: Settings, chain: Chain, database: Database, wall_clock: WallClock
) -> tuple[Gatekeeper, DaemonKeyOperations]:
    """Return who lets users in, and what the operator sees of them.

    Raises SettingsError if the API would be open to the net without anybody having said so, PrivateFileError if there
    are keys that cannot be read.
    """
    api = settings.api
    is_open = api.open or api.host in LOOPBACK
    if settings.has_role(Role.GATEWAY) and not is_open and read_api_keys(api.keys_file) is None:
        raise SettingsError(
            f"[api] host is {api.host}, which others can reach, and there are no API keys: whoever came would "
            "spend this gateway's tokens. Make a key with `quern keys add NAME`, or set [api] open = true."
        )

    def token_price(model: ModelRecord) -> int:
        return price(0, 1, model, chain.parameters.unit_price)

    book, spending = KeyBook(api.keys_file), KeySpending(database)
    gatekeeper = Gatekeeper(
        book, spending, token_price, is_open=is_open, wall_clock=wall_clock, clock=trio.current_time
    )
    return gatekeeper, DaemonKeyOperations(book, spending, wall_clock)


def gateway_app(
    settings: ApiSettings,
    gateway: Asker,
    gatekeeper: Gatekeeper,
    wall_clock: WallClock,
    vectors: VectorSource | None = None,
    prompts: PromptDesk | None = None,
) -> Starlette:
    """Return the application."""
    return make_app(
        gateway,
        wall_clock,
        gatekeeper,
        vectors=vectors,
        cors_origins=settings.cors_origins,
        more_routes=() if prompts is None else PromptApi(prompts, gateway, gatekeeper).routes(),
    )
