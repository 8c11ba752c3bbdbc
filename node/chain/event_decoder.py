"""From the contracts' logs to the protocol's events. Pure: nothing here talks to a chain."""

from collections.abc import Sequence

import base58

from contracts import bindings
from contracts.binding_base import ContractEvent
from contracts.bindings import (
    epoch_manager,
    inference_coordinator,
    model_registry,
    participant_registry,
    payment_channels,
    reward_distributor,
    slashing,
)
from node.protocol.cids import cid_from_bytes
from node.protocol.events import (
    ChannelFunded,
    ChannelWithdrawn,
    CollateralDeposited,
    CollateralSlashed,
    CollateralUnbonding,
    CollateralWithdrawn,
    EpochResultPosted,
    EpochResultVoided,
    EventBody,
    GroupSet,
    GroupStored,
    MinCollateralSet,
    MLNodeRemoved,
    MLNodeSet,
    ModelCalibrated,
    ModelRecorded,
    ParametersScheduled,
    ParticipantLeft,
    ParticipantPunished,
    ParticipantRegistered,
    PocCommitted,
    PromptAnswered,
    PromptDisputed,
    PromptReclaimed,
    PromptSettled,
    PromptSubmitted,
    RewardClaimed,
    VotesCommitted,
    VoucherRedeemed,
    WithdrawRequested,
    WorkCoinsAdded,
)
from node.protocol.identifiers import (
    Address,
    BlockNumber,
    Cid,
    EpochNumber,
    Hash32,
    ModelId,
    NodeId,
    PeerId,
    TokenAmount,
)
from node.protocol.peer_binding import peer_binding, peer_consents
from node.protocol.records import EpochResultSummary, MLNodeRegistration, ModelRecord, PocCommit
from node.protocol.results import unpack_validator_set
from node.protocol.verdicts import Offence


class EventDecoder:
    """Turns logs of the network's contracts into the protocol's events."""

    def __init__(self, chain_id: int, epoch_manager_address: Address) -> None:
        """Chain and EpochManager are what peer bindings are made for."""
        self._chain_id = chain_id
        self._epoch_manager = epoch_manager_address

    def decode(self, contract: str, topics: Sequence[bytes], data: bytes) -> EventBody | None:
        """Return what a log says, or None for an event the daemon does not follow. Raises ValueError if malformed."""
        event = bindings.decode_event(contract, topics, data)
        if isinstance(event, participant_registry.ParticipantRegistered):
            binding = peer_binding(self._chain_id, self._epoch_manager, Address(event.participant))
            consented = peer_consents(event.peer_id, binding, event.peer_signature)
            peer_id = PeerId(base58.b58encode(event.peer_id).decode())
            return ParticipantRegistered(Address(event.participant), peer_id, consented)
        return _translate(event)


def _translate(event: ContractEvent) -> EventBody | None:  # noqa: PLR0912 - one case per event
    match event:
        case model_registry.ModelRecorded():
            return ModelRecorded(_model_record(event.info))
        case model_registry.ModelCalibrated():
            return ModelCalibrated(ModelId(event.model_id), event.version, event.calibration)
        case participant_registry.ParticipantLeft():
            return ParticipantLeft(Address(event.participant))
        case participant_registry.MLNodeSet():
            models = tuple(ModelId(model_id) for model_id in event.node.models)
            node = MLNodeRegistration(NodeId(event.node.node_id), models, event.node.hardware)
            return MLNodeSet(Address(event.participant), node)
        case participant_registry.MLNodeRemoved():
            return MLNodeRemoved(Address(event.participant), NodeId(event.node_id))
        case participant_registry.CollateralDeposited():
            return CollateralDeposited(Address(event.participant), TokenAmount(event.deposited))
        case participant_registry.CollateralUnbonding():
            return CollateralUnbonding(
                Address(event.participant),
                TokenAmount(event.deposited),
                TokenAmount(event.unbonding),
                event.available_at,
            )
        case participant_registry.CollateralWithdrawn():
            return CollateralWithdrawn(Address(event.participant), TokenAmount(event.amount))
        case participant_registry.CollateralSlashed():
            return CollateralSlashed(
                Address(event.participant),
                TokenAmount(event.amount),
                TokenAmount(event.deposited),
                TokenAmount(event.unbonding),
                EpochNumber(event.barred_until),
            )
        case slashing.ParticipantPunished():
            offence = Offence(event.offence.value)
            return ParticipantPunished(EpochNumber(event.epoch), Address(event.participant), offence)
        case participant_registry.MinCollateralSet():
            return MinCollateralSet(TokenAmount(event.min_collateral))
        case epoch_manager.PocCommitted():
            return PocCommitted(
                PocCommit(
                    epoch=EpochNumber(event.epoch),
                    participant=Address(event.participant),
                    node_id=NodeId(event.node_id),
                    model_id=ModelId(event.model_id),
                    count=event.count,
                    root=Hash32(event.root),
                    vectors_cid=cid_from_bytes(event.vectors_cid),
                )
            )
        case epoch_manager.VotesCommitted():
            return VotesCommitted(EpochNumber(event.epoch), Address(event.validator), cid_from_bytes(event.bundle_cid))
        case epoch_manager.GroupSet():
            return GroupSet(EpochNumber(event.epoch), unpack_validator_set(event.validator_set))
        case epoch_manager.GroupStored():
            return GroupStored(Hash32(event.validator_set_hash), unpack_validator_set(event.validator_set))
        case epoch_manager.EpochResultPosted():
            summary = EpochResultSummary(
                epoch=EpochNumber(event.epoch),
                content_cid=cid_from_bytes(event.content_cid),
                validator_set_hash=Hash32(event.validator_set_hash),
                total_weight=event.total_weight,
                rewards_root=Hash32(event.rewards_root),
                reward_total=TokenAmount(event.reward_total),
            )
            return EpochResultPosted(summary, Address(event.poster))
        case epoch_manager.ParametersScheduled():
            return _scheduled(event)
        case epoch_manager.EpochResultVoided():
            return EpochResultVoided(EpochNumber(event.epoch), Hash32(event.result_digest))
        case reward_distributor.WorkCoinsAdded():
            return WorkCoinsAdded(Address(event.sender), TokenAmount(event.amount))
        case reward_distributor.RewardClaimed():
            return RewardClaimed(Address(event.account), TokenAmount(event.cumulative))
        case payment_channels.ChannelFunded():
            return ChannelFunded(*_channel(event), TokenAmount(event.deposited))
        case payment_channels.VoucherRedeemed():
            return VoucherRedeemed(Hash32(event.channel_id), TokenAmount(event.cumulative))
        case payment_channels.WithdrawRequested():
            return WithdrawRequested(*_channel(event), event.unlock_time)
        case payment_channels.ChannelWithdrawn():
            return ChannelWithdrawn(*_channel(event), TokenAmount(event.deposited))
        case inference_coordinator.PromptSubmitted():
            return PromptSubmitted(
                prompt_id=event.prompt_id,
                user=Address(event.user),
                model_id=ModelId(event.model_id),
                model_cid=Cid(event.model_cid),
                prompt_cid=Cid(event.prompt_cid),
                max_tokens=event.max_tokens,
                max_price=TokenAmount(event.max_price),
                executor=Address(event.executor),
                deadline_block=BlockNumber(event.deadline_block),
            )
        case inference_coordinator.PromptAnswered():
            return PromptAnswered(
                prompt_id=event.prompt_id,
                executor=Address(event.executor),
                result_cid=Cid(event.result_cid),
                prompt_tokens=event.prompt_tokens,
                output_tokens=event.output_tokens,
                price=TokenAmount(event.price),
                dispute_until=BlockNumber(event.dispute_until),
            )
        case inference_coordinator.PromptDisputed():
            return PromptDisputed(
                event.prompt_id, Address(event.user), Cid(event.reason_cid), BlockNumber(event.verdict_until)
            )
        case inference_coordinator.PromptSettled():
            return PromptSettled(
                event.prompt_id, Address(event.executor), TokenAmount(event.paid), TokenAmount(event.refunded)
            )
        case inference_coordinator.PromptReclaimed():
            return PromptReclaimed(event.prompt_id, Address(event.user), TokenAmount(event.amount))
        case _:
            return None


def _scheduled(event: epoch_manager.ParametersScheduled) -> ParametersScheduled:
    values = event.parameters
    return ParametersScheduled(
        from_epoch=EpochNumber(event.from_epoch),
        from_block=BlockNumber(event.from_block),
        epoch_blocks=values.epoch_blocks,
        generate_offset=values.generate_offset,
        exchange_offset=values.exchange_offset,
        validate_offset=values.validate_offset,
        vote_exchange_offset=values.vote_exchange_offset,
        form_offset=values.form_offset,
        load_offset=values.load_offset,
        poc_sample_size=values.poc_sample_size,
        poc_reject_mismatches=values.poc_reject_mismatches,
        unit_price=TokenAmount(values.unit_price),
    )


def _model_record(info: model_registry.ModelInfo) -> ModelRecord:
    spec = info.spec
    return ModelRecord(
        model_id=ModelId(info.model_id),
        cid=Cid(info.cid),
        name=info.name,
        description=info.description,
        active=info.active,
        version=info.version,
        hf_repo=spec.hf_repo,
        hf_commit=spec.hf_commit,
        model_args=tuple(spec.model_args),
        vram_mib=spec.vram_mib,
        throughput_per_nonce=spec.throughput_per_nonce,
        units_of_compute_per_token=spec.units_of_compute_per_token,
        context_length=spec.context_length,
        poc_distance_max=spec.poc_distance_max,
        quantization=spec.quantization,
        kv_cache_quantization=spec.kv_cache_quantization,
        gated=spec.gated,
        encrypted=spec.encrypted,
        proposer=Address(spec.proposer),
    )


_ChannelEvent = payment_channels.ChannelFunded | payment_channels.WithdrawRequested | payment_channels.ChannelWithdrawn


def _channel(event: _ChannelEvent) -> tuple[Hash32, Address, Address]:
    return Hash32(event.channel_id), Address(event.payer), Address(event.payee)
