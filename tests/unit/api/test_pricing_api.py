"""Prices over HTTP: those of the epoch stay as frozen, those of the registry follow it at once."""

from dataclasses import dataclass, field, replace

import httpx

from node.api.faces import compose
from node.api.pricing import PricingApi
from node.ports import Head
from node.protocol.chain_state import ChainState
from node.protocol.events import ParametersScheduled
from node.protocol.identifiers import BlockNumber, EpochNumber, ModelId, TokenAmount
from node.protocol.records import EpochGroup, EpochParameters, ModelRecord
from node.protocol.schedules import ParameterSchedule
from node.protocol.stages import Stage, first_block_of
from tests.builders import PARAMETERS, model


def first_block(epoch: int) -> BlockNumber:
    return first_block_of(epoch, Stage.SERVE, PARAMETERS)


@dataclass
class CannedChain:
    schedule: ParameterSchedule = field(default_factory=lambda: ParameterSchedule(PARAMETERS))
    state: ChainState = field(default_factory=ChainState)
    head: Head = field(default_factory=lambda: Head(first_block(0), first_block(0)))

    @property
    def parameters(self) -> EpochParameters:
        return self.schedule.at_block(self.head.number)


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


def dearer_from(epoch: int) -> ParameterSchedule:
    p = PARAMETERS
    return ParameterSchedule(
        p,
        (
            ParametersScheduled(
                EpochNumber(epoch),
                first_block(epoch),
                p.epoch_blocks,
                p.generate_offset,
                p.exchange_offset,
                p.validate_offset,
                p.vote_exchange_offset,
                p.form_offset,
                p.load_offset,
                p.poc_sample_size,
                p.poc_reject_mismatches,
                TokenAmount(70),
            ),
        ),
    )


async def test_a_scheduled_price_shows_an_epoch_ahead_there_and_when_it_holds_here() -> None:
    prices = Prices()
    told = {}
    prices.chain.schedule = dearer_from(5)
    for epoch in (3, 4, 5):
        block = first_block(epoch)
        prices.chain.head = Head(block, block)
        bodies = [await prices.get(path) for path in ("/v1/pricing", "/v1/governance/pricing")]
        told[epoch] = [(body["unit_price"], body["data"][0]["price_per_token"]) for body in bodies]  # type: ignore[index]
    now, dear = ("7", "14"), ("70", "140")
    assert told == {3: [now, now], 4: [now, dear], 5: [dear, dear]}


async def test_before_the_first_epoch_its_prices_are_told() -> None:
    prices = Prices()
    before = BlockNumber(PARAMETERS.genesis_block - 1)
    prices.chain.head = Head(before, before)
    assert (await prices.get("/v1/governance/pricing"))["unit_price"] == "7"
