"""Tells the operator which calibrations count as none: default bands judge in their place, and nobody would notice."""

import structlog

from node.ports import Chain
from node.protocol.identifiers import ModelId

log = structlog.get_logger(__name__)

REASON_CHARACTERS_MAX = 200
"""It may quote bytes that somebody put on chain."""


async def log_void_calibrations(chain: Chain) -> None:
    """Write a line for each active model whose calibration counts as none, and again only if the reason is another one.

    Mostly it was measured by an earlier version, whose bands did not say all that they say now.
    """
    told: dict[ModelId, str] = {}
    async for _ in chain.heads():
        state = chain.state
        void = {model: reason for model, reason in state.void_calibrations.items() if state.get_governance_model(model)}
        for model_id, reason in void.items():
            if told.get(model_id) != reason:
                log.warning(
                    "the calibration of a model on chain counts as none, as if nobody had measured it: its nodes are "
                    "judged by default bands, which may be too wide for cheats or too narrow for honest hardware; its "
                    "owner has to measure it anew with `quern calibrate` and publish that (docs/calibration.md)",
                    model=model_id,
                    reason=reason[:REASON_CHARACTERS_MAX],
                )
        told = void
