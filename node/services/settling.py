"""Turns what was earned on chain into tokens: claims rewards, settles prompts."""

from functools import partial

import trio

from node.ports import Chain
from node.protocol.actions import ClaimReward, SettlePrompt
from node.protocol.identifiers import BlockNumber
from node.protocol.rewards import reward_proof
from node.services.epochs import EpochBook
from node.services.key_tasks import KeyTasks
from node.services.settlements import Settlements
from node.services.timing import position

SETTLED_AT_ONCE = 64
"""Prompts whose settlement is under way; what is due beyond them comes when one is done."""
USER_PATIENCE_BLOCKS = 20
"""How long who asked on chain waits for the executor to settle: one transaction is paid for, not two."""

CLAIM = "claim"
"""One at a time: the next has what this one has, and more."""


class SettlingService:
    """Claims after every result; has answers on chain paid."""

    def __init__(self, chain: Chain, epochs: EpochBook, *, claim_rewards: bool) -> None:
        self._chain = chain
        self._epochs = epochs
        self._claim_rewards = claim_rewards
        self._settlements = Settlements(chain)

    async def run(self) -> None:
        """Look at every new block at what is due."""
        async with trio.open_nursery() as nursery:
            claims, prompts = KeyTasks(nursery, at_once=1), KeyTasks(nursery, at_once=SETTLED_AT_ONCE)
            async for head in self._chain.heads():
                self._settle_prompts(head.number, prompts)
                if self._claim_rewards and claims.is_free(CLAIM):
                    self._claim(claims)

    def _claim(self, tasks: KeyTasks) -> None:
        """Claim by the newest result in effect: one is only at the end of its epoch, if nobody voided it."""
        epoch = position(self._chain).epoch
        accepted = max((number for number in self._chain.state.results if number < epoch), default=None)
        result = None if accepted is None else self._epochs.result(accepted)
        account = self._chain.account
        earned = next((share.cumulative for share in result.rewards if share.account == account), 0) if result else 0
        if result is None or earned <= self._chain.state.claimed.get(account, 0):
            return  # before the proof, which is a hash for each member, at every block
        cumulative, proof = reward_proof(result.rewards, account)
        claim = ClaimReward(account, cumulative, proof)
        tasks.start(CLAIM, partial(self._settlements.settle, f"claim/{result.epoch}", claim))

    def _settle_prompts(self, block: BlockNumber, tasks: KeyTasks) -> None:
        """Have answers on chain paid once they cannot be disputed any more: by who earned, else by who asked."""
        for prompt_id in sorted(self._chain.state.unfinished_prompts):
            prompt = self._chain.state.prompts.get(prompt_id)
            if prompt is None or prompt.answered is None or prompt.settles_after is None:
                continue
            patience = {prompt.submitted.user: USER_PATIENCE_BLOCKS, prompt.answered.executor: 0}
            wait = patience.get(self._chain.account)
            if wait is not None and block > prompt.settles_after + wait:
                key = f"settle/{prompt_id}/{prompt.settles_after}"
                tasks.start(prompt_id, partial(self._settlements.settle, key, SettlePrompt(prompt_id)))
