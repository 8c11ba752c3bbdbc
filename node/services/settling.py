"""Turns what was earned into tokens: claims rewards, settles prompts, redeems vouchers before funds are taken back."""

import hashlib
from collections.abc import Sequence

import structlog

from node.ports import ActionStatus, Chain, Store
from node.protocol.actions import ChainAction, ClaimReward, RedeemVoucher, RedeemVouchers, SettlePrompt
from node.protocol.identifiers import BlockNumber, EpochNumber, Hash32
from node.protocol.rewards import reward_proof
from node.protocol.stages import Stage
from node.services.epochs import EpochBook
from node.services.timing import position

log = structlog.get_logger(__name__)

VOUCHERS_PER_TRANSACTION_MAX = 100
"""About 20,000 gas each: a transaction must stay far below a block's limit."""
USER_PATIENCE_BLOCKS = 20
"""How long who asked on chain waits for the executor to settle: one transaction is paid for, not two."""


class SettlingService:
    """Claims after every result; redeems once per epoch, and at once where a payer announced a withdrawal."""

    def __init__(
        self, chain: Chain, store: Store, epochs: EpochBook, *, claim_rewards: bool, redeem_vouchers: bool
    ) -> None:
        self._chain = chain
        self._store = store
        self._epochs = epochs
        self._claim_rewards = claim_rewards
        self._redeem_vouchers = redeem_vouchers
        self._redeemed_in: dict[Hash32, EpochNumber] = {}
        """Epoch of the newest redemption by channel: one transaction per epoch, however long LOAD lasts."""
        self._refused: set[str] = set()
        """Keys that failed for good: named once in the log, not at every block."""

    async def run(self) -> None:
        """Look at every new block at what is due."""
        async for head in self._chain.heads():
            await self._settle_prompts(head.number)
            if self._claim_rewards:
                await self._claim()
            if self._redeem_vouchers:
                await self._redeem()

    async def _claim(self) -> None:
        """Claim by the newest result in effect: one is only at the end of its epoch, if nobody voided it."""
        epoch = position(self._chain).epoch
        accepted = max((number for number in self._chain.state.results if number < epoch), default=None)
        result = None if accepted is None else self._epochs.result(accepted)
        if result is None:
            return
        try:
            cumulative, proof = reward_proof(result.rewards, self._chain.account)
        except KeyError:
            return
        if cumulative > self._chain.state.claimed.get(self._chain.account, 0):
            await self._settle(f"claim/{result.epoch}", ClaimReward(self._chain.account, cumulative, proof))

    async def _redeem(self) -> None:
        """Redeem in the last stage of an epoch, once per channel; at once where a payer takes its deposit back.

        What is due together goes together, for one transaction with many vouchers costs a fraction of many.
        """
        where = position(self._chain)
        due: list[RedeemVoucher] = []
        for signed in self._store.received_vouchers():
            identity = signed.voucher.channel_id
            channel = self._chain.state.channels.get(identity)
            if channel is None or not channel.redeemed < signed.voucher.cumulative <= channel.deposited:
                continue
            is_due = where.stage is Stage.LOAD and self._redeemed_in.get(identity) != where.epoch
            if is_due or channel.unlock_time is not None:
                self._redeemed_in[identity] = where.epoch
                due.append(RedeemVoucher(signed.payer, signed.payee, signed.voucher, signed.signature))
        for start in range(0, len(due), VOUCHERS_PER_TRANSACTION_MAX):
            await self._redeem_together(due[start : start + VOUCHERS_PER_TRANSACTION_MAX])

    async def _redeem_together(self, vouchers: Sequence[RedeemVoucher]) -> None:
        """Redeem in one transaction; if one voucher spoils it, one by one."""
        keys = [f"redeem/{entry.voucher.channel_id.hex()}/{entry.voucher.cumulative}" for entry in vouchers]
        if len(vouchers) > 1:
            key = f"redeem/{hashlib.sha256('+'.join(keys).encode()).hexdigest()}"
            if await self._settle(key, RedeemVouchers(tuple(vouchers))):
                return
        for key, voucher in zip(keys, vouchers, strict=True):
            await self._settle(key, voucher)

    async def _settle_prompts(self, block: BlockNumber) -> None:
        """Have answers on chain paid once they cannot be disputed any more: by who earned, else by who asked."""
        for prompt_id in sorted(self._chain.state.unfinished_prompts):
            prompt = self._chain.state.prompts.get(prompt_id)
            if prompt is None or prompt.answered is None or prompt.settles_after is None:
                continue
            patience = {prompt.submitted.user: USER_PATIENCE_BLOCKS, prompt.answered.executor: 0}
            wait = patience.get(self._chain.account)
            if wait is not None and block > prompt.settles_after + wait:
                await self._settle(f"settle/{prompt_id}/{prompt.settles_after}", SettlePrompt(prompt_id))

    async def _settle(self, key: str, action: ChainAction) -> bool:
        """Submit and wait, for the next look must see what this one did; return whether it was done."""
        if key in self._refused:
            return False
        await self._chain.submit(key, action)
        outcome = await self._chain.outcome(key)
        if outcome.status is ActionStatus.FAILED:
            self._refused.add(key)
            log.error("a settlement was refused", key=key, reason=outcome.reason)
            return False
        log.info("settled", key=key)
        return True
