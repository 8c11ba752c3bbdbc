"""Prices and models over HTTP: of this epoch from its frozen snapshot, of what comes next from the registry.

`GET /v1/pricing` is what requests cost now. `GET /v1/governance/models` and `/v1/governance/pricing` are what the next
epoch's snapshot will be made of. Bodies of an epoch are made once; those of the registry again whenever it changed.
Amounts are decimal text in base units (10^-18 of a token), for JSON's numbers are too short for them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from node.ports import Chain
from node.protocol.chain_state import FIRST_EPOCH
from node.protocol.identifiers import TokenAmount
from node.protocol.pricing import price
from node.protocol.records import EpochGroup, ModelRecord
from node.protocol.stages import BeforeGenesisError, stage_at

MILLION = 1_000_000


@dataclass(slots=True)
class _Kept:
    """A body and what it was made of."""

    made_of: object = None
    body: Response | None = None


class PricingApi:
    """The handlers. `group` returns the group in charge."""

    def __init__(self, chain: Chain, group: Callable[[], EpochGroup]) -> None:
        self._chain = chain
        self._group = group
        self._kept: dict[str, _Kept] = {}

    def routes(self) -> Sequence[BaseRoute]:
        """Return the routes of all of it."""
        return (
            Route("/v1/pricing", self.pricing, methods=["GET"]),
            Route("/v1/governance/models", self.governance_models, methods=["GET"]),
            Route("/v1/governance/pricing", self.governance_pricing, methods=["GET"]),
        )

    async def pricing(self, _request: Request) -> Response:
        """Prices of this epoch."""
        group, unit_price = self._group(), self._chain.parameters.unit_price
        return self._once(
            "pricing",
            (group.epoch, group.models, unit_price),
            lambda: {"object": "list", "epoch": group.epoch, **prices(group.models, unit_price)},
        )

    async def governance_pricing(self, _request: Request) -> Response:
        """Prices of the next epoch, as the registry and governance have them now."""
        models, unit_price = self._registered(), self._chain.schedule.of_epoch(self._next_epoch()).unit_price
        return self._once(
            "governance pricing", (models, unit_price), lambda: {"object": "list", **prices(models, unit_price)}
        )

    async def governance_models(self, _request: Request) -> Response:
        """Active models of the registry."""
        models = self._registered()
        return self._once(
            "governance models",
            models,
            lambda: {"object": "list", "data": [governance_body(model) for model in models]},
        )

    def _next_epoch(self) -> int:
        try:
            return stage_at(self._chain.head.number, self._chain.schedule).epoch + 1
        except BeforeGenesisError:
            return FIRST_EPOCH

    def _registered(self) -> tuple[ModelRecord, ...]:
        return self._chain.state.get_governance_models()

    def _once(self, name: str, made_of: object, make: Callable[[], dict[str, object]]) -> Response:
        kept = self._kept.setdefault(name, _Kept())
        if kept.body is None or kept.made_of != made_of:
            kept.made_of, kept.body = made_of, JSONResponse(make())
        return kept.body


def prices(models: Sequence[ModelRecord], unit_price: TokenAmount) -> dict[str, object]:
    """Return what models cost at a unit price."""
    return {"unit_price": str(unit_price), "data": [price_body(model, unit_price) for model in models]}


def price_body(model: ModelRecord, unit_price: TokenAmount) -> dict[str, object]:
    """Return what one model costs. Every token costs the same, read or written."""
    return {
        "id": model.model_id,
        "object": "price",
        "units_of_compute_per_token": model.units_of_compute_per_token,
        "price_per_token": str(price(0, 1, model, unit_price)),
        "price_per_million_tokens": str(price(0, MILLION, model, unit_price)),
    }


def governance_body(model: ModelRecord) -> dict[str, object]:
    """Return what the registry says of one model."""
    return {
        "id": model.model_id,
        "object": "model",
        "name": model.name,
        "description": model.description,
        "version": model.version,
        "cid": model.cid,
        "context_length": model.context_length,
        "units_of_compute_per_token": model.units_of_compute_per_token,
        "throughput_per_nonce": model.throughput_per_nonce,
        "vram_mib": model.vram_mib,
        "model_args": list(model.model_args),
        "quantization": model.quantization,
        "gated": model.gated,
        "encrypted": model.encrypted,
        "proposed_by": model.proposer,
    }
