"""Reads a network's plan, a JSON file: what `scripts/deploy.py` is to deploy. docs/operators.md explains each key."""

from pathlib import Path
from typing import Annotated

from eth_utils.address import is_checksum_address
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from contracts.bindings import model_registry
from node.amounts import amount_to_tokens, tokens_to_amount
from node.chain.deployment import Governance, NetworkPlan, Penalty
from node.protocol.identifiers import Address, BlockNumber, TokenAmount
from node.protocol.records import EpochParameters

PLAN_BYTES_MAX = 1024 * 1024
"""A plan with the largest genesis group has about 30 kB."""
DAY_SECONDS = 86_400
EPOCH_BLOCKS_MAX = 2**20 - 1
"""As many as the EpochManager has room for: 145 days of 12 seconds, three days of a quarter of a second."""
GROUPS_REMEMBERED = 15
"""As the EpochManager looks back: a dispute that outlives its group could not be judged any more."""


class PlanError(Exception):
    """The plan file cannot be used; the message names the key."""


def _account(text: str) -> str:
    """Refuse an address whose checksum is missing or wrong: tokens sent to a mistyped one are lost."""
    if not is_checksum_address(text):
        raise ValueError(f"{text[:64]} is not a checksummed address")
    return text


def _amount(value: object) -> int:
    """Read a decimal text such as "12.5"; a JSON number could lose digits."""
    if not isinstance(value, str):
        raise ValueError('expected an amount of tokens as text, such as "12.5"')
    return tokens_to_amount(value)


Account = Annotated[str, AfterValidator(_account)]
Amount = Annotated[int, BeforeValidator(_amount)]
Weight = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Parameters(_Section):
    genesis_block: int = Field(default=0, ge=0)
    epoch_blocks: int = Field(le=EPOCH_BLOCKS_MAX)
    generate_offset: int
    exchange_offset: int
    validate_offset: int
    vote_exchange_offset: int
    form_offset: int
    load_offset: int
    poc_sample_size: int
    poc_reject_mismatches: int
    unit_price: Amount
    initial_subsidy: Amount
    halving_epochs: int


class _Penalty(_Section):
    per_mille: int = Field(ge=0, le=1000)
    barred_epochs: int = Field(ge=0)


class _Governance(_Section):
    voting_delay_blocks: int = Field(ge=0)
    voting_period_blocks: int = Field(ge=1)
    proposal_threshold: Amount
    quorum_percent: int = Field(ge=1, le=100)
    timelock_seconds: int = Field(ge=0)


class _Plan(_Section):
    token_cap: Amount
    token_supply: Amount
    treasury: Account
    genesis_group: dict[Account, Weight] = Field(min_length=1)
    parameters: _Parameters
    min_collateral: Amount
    unbonding_seconds: int = Field(default=21 * DAY_SECONDS, ge=0)
    unlock_seconds: int = Field(default=DAY_SECONDS, ge=0)
    vesting_seconds: int = Field(default=0, ge=0)
    answer_blocks: int = Field(default=300, ge=1)
    dispute_blocks: int = Field(default=100, ge=0)
    verdict_blocks: int = Field(default=1000, ge=0)
    fraud_penalty: _Penalty = _Penalty(per_mille=1000, barred_epochs=720)
    downtime_penalty: _Penalty = _Penalty(per_mille=10, barred_epochs=1)
    governance: _Governance | None = None

    @model_validator(mode="after")
    def _disputes_end_while_their_group_is_known(self) -> "_Plan":
        longest = self.answer_blocks + self.dispute_blocks + self.verdict_blocks
        # Governance may make later epochs half as long.
        if longest >= (GROUPS_REMEMBERED - 1) * (self.parameters.epoch_blocks // 2):
            raise ValueError(
                f"answer_blocks, dispute_blocks and verdict_blocks are {longest} together: a prompt must end within "
                f"{GROUPS_REMEMBERED - 1} epochs of half the length, for groups of longer ago are forgotten"
            )
        return self


def read_plan(path: Path, genesis_models: tuple[model_registry.ModelImport, ...] = ()) -> NetworkPlan:
    """Read a plan file. Amounts of the token are decimal texts such as "12.5". Raises PlanError."""
    try:
        if path.stat().st_size > PLAN_BYTES_MAX:
            raise PlanError(f"{path} is too large to be a plan")
        return _to_plan(_Plan.model_validate_json(path.read_bytes()), genesis_models)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc']) or 'the file'}: {fault['msg']}" for fault in error.errors()
        )
        raise PlanError(f"{path} is not a plan: {faults}") from error
    except (OSError, ValueError) as error:
        raise PlanError(f"{path} is not a plan: {error}") from error


def cost_of_fraud(plan: NetworkPlan) -> str:
    """Return what the deployer is told of what fraud costs: with nothing to lose, most cheats pay."""
    burned = plan.min_collateral * plan.fraud_penalty.per_mille // 1000
    if not burned:
        return (
            "Warning: with this plan fraud costs nothing but an account, and most cheats pay (docs/soundness.md). Set "
            "min_collateral, and fraud_penalty.per_mille above 0, unless you trust all participants"
        )
    return f"Fraud costs {amount_to_tokens(burned)} tokens of collateral: docs/economics.md says how much it has to be"


def _to_plan(plan: _Plan, genesis_models: tuple[model_registry.ModelImport, ...]) -> NetworkPlan:
    parameters = plan.parameters.model_dump()
    governance = None
    if plan.governance is not None:
        governance = Governance(**plan.governance.model_dump())
    group = ((Address(account), weight) for account, weight in plan.genesis_group.items())
    return NetworkPlan(
        token_cap=TokenAmount(plan.token_cap),
        token_supply=TokenAmount(plan.token_supply),
        treasury=Address(plan.treasury),
        genesis_group=tuple(sorted(group, key=lambda entry: entry[0].lower())),
        genesis_models=genesis_models,
        governance=governance,
        parameters=EpochParameters(**{**parameters, "genesis_block": BlockNumber(parameters["genesis_block"])}),
        unbonding_seconds=plan.unbonding_seconds,
        unlock_seconds=plan.unlock_seconds,
        min_collateral=TokenAmount(plan.min_collateral),
        vesting_seconds=plan.vesting_seconds,
        answer_blocks=plan.answer_blocks,
        dispute_blocks=plan.dispute_blocks,
        verdict_blocks=plan.verdict_blocks,
        fraud_penalty=Penalty(plan.fraud_penalty.per_mille, plan.fraud_penalty.barred_epochs),
        downtime_penalty=Penalty(plan.downtime_penalty.per_mille, plan.downtime_penalty.barred_epochs),
    )
