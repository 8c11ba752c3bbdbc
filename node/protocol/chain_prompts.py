"""Who answers a prompt on chain, and from which block on: whoever was drawn at once, others one after another.

The contract takes an answer from any member of the group in the second half of the time for answers. If all of them
began there, all but one would work and pay gas in vain: so they have turns, in an order that everybody computes. The
contract does not know them; whoever begins early risks only its own gas.
"""

import hashlib

from node.protocol.chain_state import ChainState, PromptState
from node.protocol.identifiers import Address, BlockNumber, EpochNumber

SUBSTITUTE_TURNS = 4
"""Turns in the second half; members beyond the fourth share the last one. More turns would leave each too few blocks to
generate an answer in."""


def answers_from(
    prompt_id: int, prompt: PromptState, account: Address, epoch: EpochNumber, state: ChainState
) -> BlockNumber | None:
    """Return the block from which `account` should answer; None if it may not. `epoch` is the present one."""
    submitted = prompt.submitted
    if submitted.executor == account:
        return prompt.submitted_at
    order = substitutes(prompt_id, prompt, epoch, state)
    if account not in order:
        return None
    blocks = max(0, submitted.deadline_block - prompt.submitted_at)
    opens = submitted.deadline_block - blocks // 2 + 1
    turn = min(order.index(account), SUBSTITUTE_TURNS - 1)
    return BlockNumber(opens + turn * (submitted.deadline_block + 1 - opens) // SUBSTITUTE_TURNS)


def substitutes(prompt_id: int, prompt: PromptState, epoch: EpochNumber, state: ChainState) -> tuple[Address, ...]:
    """Return the members who registered an ML node with the model, without whoever was drawn, in their order."""
    submitted = prompt.submitted
    able = [
        account
        for account, weight in state.group_weights(epoch)
        if weight > 0 and account != submitted.executor and _serves(state, account, prompt)
    ]
    return tuple(sorted(able, key=lambda account: hashlib.sha256(f"{prompt_id}/{account.lower()}".encode()).digest()))


def _serves(state: ChainState, account: Address, prompt: PromptState) -> bool:
    participant = state.participants.get(account)
    return participant is not None and any(prompt.submitted.model_id in node.models for node in participant.ml_nodes)
