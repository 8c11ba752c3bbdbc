"""Tells the operator what is judged otherwise than an owner measured, for nobody would notice before it costs money:
calibrations that count as none, and hardware of one's own that a calibration has no band for."""

import structlog

from node.ports import Chain
from node.protocol.calibration import is_measured
from node.protocol.identifiers import ModelId, NodeId

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


async def log_unmeasured_hardware(chain: Chain) -> None:
    """Write a line for each ML node here whose hardware its model's calibration has no band for.

    As soon as it is registered, and so before it mines: an epoch that is judged by it begins later. Again only for
    other hardware, or after the model had a band for it.
    """
    told: set[tuple[NodeId, ModelId, str]] = set()
    async for _ in chain.heads():
        state = chain.state
        participant = state.participants.get(chain.account)
        unmeasured = {
            (node.node_id, model.model_id, node.hardware)
            for node in (() if participant is None else participant.ml_nodes)
            for model in map(state.get_governance_model, node.models)
            if model is not None and not is_measured(state.calibrations.get(model.model_id), model, node.hardware)
        }
        for node_id, model_id, hardware in sorted(unmeasured - told):
            log.warning(
                "nobody measured this node's hardware for its model: it is judged by the narrower of the widest band "
                "in the model's calibration and of the default; if it differs by more than the measured hardware, its "
                "batches earn nothing, and audits may prove its answers false, which costs collateral; before you "
                "serve with it, have the owner measure it with `quern calibrate` (docs/calibration.md)",
                node=node_id,
                model=model_id,
                hardware=hardware,
            )
        told = unmeasured
