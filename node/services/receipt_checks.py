"""What the chain says of a receipt: its network, who took part, the price of its epoch, and whether it can be paid."""

from collections.abc import Iterator
from dataclasses import dataclass

from node.protocol.chain_state import ChainState
from node.protocol.dossiers import Dossier
from node.protocol.eip712 import channel_id
from node.protocol.identifiers import Address, EpochNumber, TokenAmount
from node.protocol.node_names import UNNAMED, has_node
from node.protocol.pricing import price
from node.protocol.records import EpochGroup
from node.protocol.verification import Check, fails, holds, unchecked


@dataclass(frozen=True, slots=True)
class ChainFacts:
    """What is known of the chain, as far as a receipt is concerned."""

    chain_id: int
    payment_channels: Address
    state: ChainState
    unit_price: TokenAmount
    epoch: EpochNumber
    """The present one."""
    group: EpochGroup | None
    """The group of the receipt's epoch; None if its content is not here."""
    is_frozen: bool
    """The group is that of a result; else it was made of the registry, which may have changed since."""


def check_against_chain(dossier: Dossier, facts: ChainFacts) -> tuple[Check, ...]:
    """Check all that needs the chain and the epoch's group, and no model."""
    ours = (facts.chain_id, facts.payment_channels.lower())
    if (dossier.chain_id, dossier.payment_channels.lower()) != ours:
        detail = f"the receipt is of chain {dossier.chain_id}, contract {dossier.payment_channels}"
        return (fails("network", f"{detail}; this daemon is on chain {facts.chain_id}, {facts.payment_channels}"),)
    return (
        holds("network", f"chain {facts.chain_id}, PaymentChannels at {facts.payment_channels}"),
        _executor(dossier, facts),
        *_model_and_price(dossier, facts),
        _channel(dossier, facts),
    )


def _executor(dossier: Dossier, facts: ChainFacts) -> Check:
    receipt = dossier.signed.receipt
    if receipt.epoch > facts.epoch:
        return fails("executor", f"epoch {receipt.epoch} has not begun; it is epoch {facts.epoch}")
    if facts.group is None:
        return unchecked("executor", f"the group of epoch {receipt.epoch} is not here any more")
    member = next((member for member in facts.group.members if member.participant == receipt.executor), None)
    if member is None:
        return _mismatch("executor", f"{receipt.executor} is no member of epoch {receipt.epoch}", facts)
    if receipt.node_id == UNNAMED:
        return holds("executor", f"a member of epoch {receipt.epoch}, with a node that was not registered yet")
    if not has_node(facts.group, facts.state, receipt.executor, receipt.node_id):
        return _mismatch("executor", f"it has no node {receipt.node_id} in epoch {receipt.epoch}", facts)
    return holds("executor", f"a member of epoch {receipt.epoch} with node {receipt.node_id}")


def _model_and_price(dossier: Dossier, facts: ChainFacts) -> Iterator[Check]:
    receipt = dossier.signed.receipt
    if facts.group is None:
        reason = f"the group of epoch {receipt.epoch} is not here any more"
        yield unchecked("model", reason)
        yield unchecked("price", reason)
        return
    model = facts.group.get_epoch_model(receipt.model_id)
    if model is None:
        yield _mismatch("model", f"{receipt.model_id} is not served in epoch {receipt.epoch}", facts)
        yield unchecked("price", "without the model's record there is none")
        return
    if model.cid != receipt.model_cid:
        yield _mismatch("model", f"the epoch's {receipt.model_id} is {model.cid}, not {receipt.model_cid}", facts)
    else:
        yield holds("model", f"{receipt.model_id} version {model.version}, as frozen for epoch {receipt.epoch}")
    due = price(receipt.prompt_tokens, receipt.output_tokens, model, facts.unit_price)
    if receipt.price == due:
        yield holds("price", f"{receipt.prompt_tokens} + {receipt.output_tokens} tokens cost {due}")
    elif receipt.price == 0:
        yield holds("price", f"free of charge; the chain's price is {due}")
    else:
        yield _mismatch("price", f"the tokens cost {due} in epoch {receipt.epoch}, not {receipt.price}", facts)


def _mismatch(what: str, detail: str, facts: ChainFacts) -> Check:
    if facts.is_frozen:
        return fails(what, detail)
    return unchecked(what, f"{detail}; but nothing was frozen then, and the registry may have changed since")


def _channel(dossier: Dossier, facts: ChainFacts) -> Check:
    receipt, covering = dossier.signed.receipt, dossier.covering
    if receipt.price == 0:
        return holds("channel", "none is needed")
    identity = channel_id(facts.chain_id, facts.payment_channels, receipt.payer, receipt.executor)
    channel = facts.state.channels.get(identity)
    if channel is None:
        return fails("channel", "payer and executor never had one")
    if channel.redeemed >= receipt.price and (covering is None or channel.redeemed >= covering.voucher.cumulative):
        return holds("channel", f"{channel.redeemed} was redeemed from it, {channel.deposited} deposited")
    if covering is None:
        return unchecked("channel", f"it holds {channel.deposited}; without a voucher nobody knows for what")
    promised = covering.voucher.cumulative
    if promised > channel.deposited:
        return fails("channel", f"the voucher promises {promised}, the channel holds {channel.deposited}")
    leaving = ", but its payer has announced to empty it" if channel.unlock_time is not None else ""
    return holds("channel", f"it holds {channel.deposited}, so the voucher can be redeemed{leaving}")
