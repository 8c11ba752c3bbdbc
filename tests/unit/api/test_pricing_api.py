"""Prices over HTTP: those of the epoch stay as frozen, those of the registry follow it at once."""

from dataclasses import dataclass, field, replace

import httpx

from node.api.faces import compose
from node.api.pricing import PricingApi
from node.protocol.chain_state import ChainState
from node.protocol.identifiers import EpochNumber, ModelId
from node.protocol.records import EpochGroup, EpochParameters, ModelRecord
from tests.builders import PARAMETERS, model


@dataclass
class CannedChain:
    parameters: EpochParameters = PARAMETERS
    state: ChainState = field(default_factory=ChainState)


class Prices:
    """The API over a chain and a group that tests change."""

    def __init__(self) -> None:
        self.chain = CannedChain()
        self.group = EpochGroup(EpochNumber(3), (), (model(),))
        self.register(model())
        api = PricingApi(self.chain, lambda: self.group)  # type: ignore[arg-type]
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=compose(api.routes(), None)), base_url="http://node"
        )

    def register(self, record: ModelRecord) -> None:
        self.chain.state.models[record.model_id] = record

    async def get(self, path: str) -> dict[str, object]:
        body: dict[str, object] = (await self.client.get(path)).json()
        return body


async def test_what_a_token_costs_is_told_in_base_units() -> None:
    body = await Prices().get("/v1/pricing")
    assert body == {
        "object": "list",
        "epoch": 3,
        "unit_price": "7",
        "data": [
            {
                "id": "tiny",
                "object": "price",
                "units_of_compute_per_token": 2,
                "price_per_token": "14",
                "price_per_million_tokens": "14000000",
            }
        ],
    }


async def test_a_change_in_the_registry_shows_at_once_there_and_only_with_the_next_epoch_here() -> None:
    prices = Prices()
    before = await prices.get("/v1/pricing")
    dearer = replace(model(), units_of_compute_per_token=5, version=2)
    await prices.get("/v1/governance/pricing")
    prices.register(dearer)
    prices.register(replace(model(ModelId("gone")), active=False))
    assert await prices.get("/v1/pricing") == before
    (entry,) = (await prices.get("/v1/governance/pricing"))["data"]  # type: ignore[misc]
    assert entry["price_per_token"] == "35"
    (described,) = (await prices.get("/v1/governance/models"))["data"]  # type: ignore[misc]
    assert (described["id"], described["version"]) == ("tiny", 2)
    prices.group = EpochGroup(EpochNumber(4), (), (dearer,))
    after = await prices.get("/v1/pricing")
    assert (after["epoch"], after["data"][0]["price_per_token"]) == (4, "35")  # type: ignore[index]
