"""The EpochManager's parameters, between the contract's record and the protocol's."""

from contracts.bindings import epoch_manager
from node.protocol.identifiers import BlockNumber, TokenAmount
from node.protocol.records import EpochParameters


def from_parameters(values: epoch_manager.Parameters) -> EpochParameters:
    """Return the record of `EpochManager.parameters()`. Raises ValueError if it breaks the protocol's rules."""
    return EpochParameters(
        genesis_block=BlockNumber(values.genesis_block),
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
        initial_subsidy=TokenAmount(values.initial_subsidy),
        halving_epochs=values.halving_epochs,
    )


def to_parameters(parameters: EpochParameters) -> epoch_manager.Parameters:
    """Return `EpochManager.Parameters` for its constructor."""
    return epoch_manager.Parameters(
        genesis_block=parameters.genesis_block,
        epoch_blocks=parameters.epoch_blocks,
        generate_offset=parameters.generate_offset,
        exchange_offset=parameters.exchange_offset,
        validate_offset=parameters.validate_offset,
        vote_exchange_offset=parameters.vote_exchange_offset,
        form_offset=parameters.form_offset,
        load_offset=parameters.load_offset,
        poc_sample_size=parameters.poc_sample_size,
        poc_reject_mismatches=parameters.poc_reject_mismatches,
        unit_price=parameters.unit_price,
        initial_subsidy=parameters.initial_subsidy,
        halving_epochs=parameters.halving_epochs,
    )
