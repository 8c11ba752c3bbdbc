"""From what an operator wishes on chain to the action that does it, or to why it would only cost gas. Pure.

The contracts decide; these rules say earlier, and in words, what they would refuse by the chain as it is known here.
"""

from dataclasses import dataclass

from eth_utils.address import is_checksum_address

from node.amounts import amount_to_tokens
from node.control.chain_methods import (
    DepositCollateralParams,
    DisputePromptParams,
    RequestChannelParams,
    SponsorParams,
    UnbondCollateralParams,
    UnregisterParams,
    Wish,
    WithdrawChannelParams,
    WithdrawCollateralParams,
)
from node.control.jsonrpc import ErrorCode, RpcError
from node.dates import date_in_words
from node.protocol.actions import (
    AddWorkCoins,
    ChainAction,
    DepositCollateral,
    DisputePrompt,
    RequestWithdrawal,
    UnbondCollateral,
    UnregisterParticipant,
    WithdrawCollateral,
    WithdrawFromChannel,
)
from node.protocol.chain_state import ChainState, ChannelState, CollateralState, PromptState
from node.protocol.cids import CidError, cid_to_bytes
from node.protocol.identifiers import Address, Cid, TokenAmount


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the rules look at besides the wish."""

    account: Address
    state: ChainState
    head_block: int
    now: int
    """UNIX seconds."""
    token_balance: int
    registers_itself: bool
    """Whether the running daemon would undo an unregistration at once."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send, and what will have happened, in the past tense."""

    action: ChainAction
    what: str


def plan(wish: Wish, outlook: Outlook) -> Plan:
    """Return what does as wished. Raises RpcError with the reason and what to do."""
    match wish:
        case DepositCollateralParams() | UnbondCollateralParams() | WithdrawCollateralParams():
            return _plan_collateral(wish, outlook)
        case RequestChannelParams() | WithdrawChannelParams():
            return _plan_channel(wish, outlook)
        case DisputePromptParams():
            return _plan_dispute(wish, outlook)
        case SponsorParams(amount=text):
            amount = _affordable(int(text), outlook)
            return Plan(AddWorkCoins(amount), f"put {_tokens(amount)} into the pot")
        case UnregisterParams():
            return _plan_unregistration(outlook)


def standing(state: ChainState, account: Address, epoch: int) -> str:
    """How an account stands in `epoch`: only proofs of `active` ones count."""
    collateral = state.collateral.get(account, CollateralState())
    if account not in state.participants:
        return "unregistered"
    if epoch < collateral.barred_until:
        return "barred"
    return "undercollateralised" if collateral.deposited < state.min_collateral else "active"


def prompt_state(prompt: PromptState) -> str:
    """The state of a prompt on chain, in one word."""
    if prompt.ended is not None:
        return "settled" if prompt.answered is not None else "reclaimed"
    if prompt.disputed is not None:
        return "disputed"
    return "open" if prompt.answered is None else "answered"


def _plan_collateral(
    wish: DepositCollateralParams | UnbondCollateralParams | WithdrawCollateralParams, outlook: Outlook
) -> Plan:
    held = outlook.state.collateral.get(outlook.account, CollateralState())
    match wish:
        case DepositCollateralParams(amount=text):
            if outlook.account not in outlook.state.participants:
                raise _refusal(
                    f"{outlook.account} is not registered, and only participants post collateral",
                    "See `quern status`: the daemon registers at its start where register_on_start is set.",
                )
            amount = _affordable(int(text), outlook)
            return Plan(DepositCollateral(amount), f"posted {_tokens(amount)} as collateral")
        case UnbondCollateralParams(amount=text):
            if int(text) > held.deposited:
                raise _refusal(f"only {_tokens(held.deposited)} are deposited", "Ask for that much or less.")
            return Plan(
                UnbondCollateral(TokenAmount(int(text))),
                f"asked for {_tokens(int(text))} of collateral back; they can be slashed until they are withdrawn",
            )
        case WithdrawCollateralParams():
            if held.unbonding == 0:
                raise _refusal("no collateral is unbonding", "Ask for it first: `quern chain collateral unbond`.")
            if outlook.now < held.available_at:
                raise _refusal(
                    f"{_tokens(held.unbonding)} unbond until {date_in_words(held.available_at)}",
                    "Withdraw them after that.",
                )
            return Plan(WithdrawCollateral(), f"withdrew {_tokens(held.unbonding)} of collateral")


def _plan_channel(wish: RequestChannelParams | WithdrawChannelParams, outlook: Outlook) -> Plan:
    payee = _account(wish.payee)
    channel = _channel_to(payee, outlook)
    left = channel.deposited - channel.redeemed
    if left == 0:
        raise _refusal(f"the channel to {payee} is empty", "There is nothing to withdraw.")
    if isinstance(wish, RequestChannelParams):
        return Plan(
            RequestWithdrawal(payee),
            f"announced that the channel to {payee} will be emptied; a new deposit takes that back",
        )
    if channel.unlock_time is None:
        raise _refusal(
            f"no withdrawal from the channel to {payee} is announced",
            f"Announce it first: quern chain channels request {payee}",
        )
    if outlook.now < channel.unlock_time:
        raise _refusal(
            f"the channel to {payee} is locked until {date_in_words(channel.unlock_time)}: its payee's time to redeem",
            "Withdraw after that.",
        )
    return Plan(WithdrawFromChannel(payee), f"withdrew {_tokens(left)} from the channel to {payee}")


def _plan_dispute(wish: DisputePromptParams, outlook: Outlook) -> Plan:
    prompt = outlook.state.prompts.get(wish.prompt_id)
    if prompt is None or prompt.submitted.user != outlook.account:
        raise _refusal(f"prompt {wish.prompt_id} is not one of this account's", "See `quern chain prompts`.")
    if prompt.answered is None or prompt.disputed is not None or prompt.ended is not None:
        raise _refusal(
            f"prompt {wish.prompt_id} is {prompt_state(prompt)}", "Only an answer that is not disputed yet can be."
        )
    if outlook.head_block > prompt.answered.dispute_until:
        raise _refusal(
            f"the time to dispute prompt {wish.prompt_id} ended with block {prompt.answered.dispute_until}",
            "Its answer will be paid.",
        )
    try:
        cid_to_bytes(Cid(wish.reason_cid))
    except CidError as error:
        raise _refusal(f"the reason is no CID: {error}", "Publish what is wrong, and give its CID.") from error
    bond = _affordable(prompt.answered.price, outlook)
    return Plan(
        DisputePrompt(wish.prompt_id, Cid(wish.reason_cid)),
        f"disputed the answer to prompt {wish.prompt_id}; {_tokens(bond)} are bound until the group judges, "
        "and lost if it finds for the executor",
    )


def _plan_unregistration(outlook: Outlook) -> Plan:
    participant = outlook.state.participants.get(outlook.account)
    if participant is None:
        raise _refusal(f"{outlook.account} is not registered", "There is nothing to give up.")
    if outlook.registers_itself:
        raise _refusal(
            "this daemon would register again at once, and pay for it",
            "Set [participant] register_on_start = false, restart the daemon, then unregister.",
        )
    return Plan(
        UnregisterParticipant(tuple(node.node_id for node in participant.ml_nodes)),
        f"gave up the registration of {outlook.account} with {len(participant.ml_nodes)} ML nodes; "
        "its collateral stays its own",
    )


def _channel_to(payee: Address, outlook: Outlook) -> ChannelState:
    for channel in outlook.state.channels.values():
        if (channel.payer, channel.payee) == (outlook.account, payee):
            return channel
    raise _refusal(f"this account pays no channel to {payee}", "See `quern chain channels`.")


def _account(text: str) -> Address:
    if not is_checksum_address(text):
        raise _refusal(f"{text} is not a checksummed address", "Copy it whole, with its capitals.")
    return Address(text)


def _affordable(amount: int, outlook: Outlook) -> TokenAmount:
    if amount > outlook.token_balance:
        raise _refusal(
            f"this needs {_tokens(amount)}, and the account has {_tokens(outlook.token_balance)}",
            "See `quern earnings` for what can still be redeemed or claimed.",
        )
    return TokenAmount(amount)


def _refusal(message: str, remedy: str) -> RpcError:
    return RpcError(ErrorCode.REFUSED, message, remedy)


def _tokens(amount: int) -> str:
    return f"{amount_to_tokens(amount)} tokens of Quern"
