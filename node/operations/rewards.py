"""What the operator sees of scores and rewards: read from results' contents, explained by the rules that made them."""

from collections.abc import Sequence

import trio
from eth_utils.address import to_checksum_address

from node.control.jsonrpc import ErrorCode, RpcError
from node.control.reward_methods import RewardsParams, ScoreParams, WhyNotPaidParams
from node.control.reward_views import (
    EpochRewardView,
    PointLossView,
    RewardsView,
    ScorePartView,
    ScoresView,
    ScoreView,
    UnpaidPartView,
    WhyNotPaidView,
)
from node.ports import Chain, Content, ContentUnavailableError, Provider, Store
from node.protocol import scores as scoring
from node.protocol import unpaid
from node.protocol.findings import ParticipantScore, ScorePart
from node.protocol.identifiers import Address, EpochNumber, TokenAmount
from node.protocol.records import EpochGroup, EpochResult
from node.protocol.rewards import pot, subsidy
from node.protocol.unpaid import Explanation, explain, explain_no_result, models_lacking
from node.services.epochs import RESULT_BYTES_MAX, EpochBook, ResultContentError, result_from_bytes
from node.services.presence import PresenceTable
from node.services.timing import position

FETCH_SECONDS_MAX = 20.0
"""How long an operator waits for an old result that is not here."""
WORDS = {**unpaid.REASONS, **scoring.REASONS}
TENTHS_PERCENT = 10


class DaemonRewardOperations:
    """Implements node.control.reward_methods.RewardOperations."""

    def __init__(
        self, chain: Chain, content: Content, store: Store, presence: PresenceTable, epochs: EpochBook
    ) -> None:
        self._chain = chain
        self._content = content
        self._store = store
        self._presence = presence
        self._epochs = epochs

    async def score(self, params: ScoreParams) -> ScoresView:
        """The score of one participant, or of all, in the newest result."""
        result = self._epochs.newest_result()
        if result is None:
            return ScoresView(epoch=None, scores=[])
        account = self._account(params.participant)
        shown = [score for score in result.scores if params.all or score.participant == account]
        if not shown and not params.all:
            raise RpcError(
                ErrorCode.REFUSED,
                f"{account} has no score in epoch {result.epoch}: it was no member of the group and proved no compute",
                "See `quern score --all`; a node that joins has its first score after its first Proof of Compute.",
            )
        return ScoresView(epoch=result.epoch, scores=[_score_view(result.epoch, score) for score in shown])

    async def rewards(self, params: RewardsParams) -> RewardsView:
        """What the newest epochs paid, newest first."""
        account = self._account(params.participant)
        state = self._chain.state
        newest = position(self._chain).epoch
        last = newest if newest in state.results else newest - 1
        first = max(0, last - params.epochs + 1)
        epochs = [await self._epoch_reward(EpochNumber(epoch), account) for epoch in range(last, first - 1, -1)]
        in_effect = max((number for number in state.results if number < newest), default=None)
        result = None if in_effect is None else await self._result(in_effect)
        claimed = state.claimed.get(account, TokenAmount(0))
        shares = {} if result is None else {share.account: share.cumulative for share in result.rewards}
        return RewardsView(
            participant=account,
            cumulative=str(shares.get(account, claimed)),
            claimed=str(claimed),
            epochs=epochs,
        )

    async def why_not_paid(self, params: WhyNotPaidParams) -> WhyNotPaidView:
        """Every unit between the most a participant could have earned in an epoch and what it got."""
        account = self._account(params.participant)
        epoch = EpochNumber(params.epoch)
        now = position(self._chain).epoch
        if epoch > now or (epoch == now and epoch not in self._chain.state.results):
            raise RpcError(
                ErrorCode.REFUSED, f"epoch {epoch} is not settled yet; this is epoch {now}", "See `quern epoch`."
            )
        result = await self._result(epoch)
        explanation = await self._explain(epoch, account, result)
        lacking: Sequence[str] = ()
        if result is not None and any(part.reason == unpaid.COVERAGE for part in explanation.parts):
            lacking = models_lacking(
                result, [model.model_id for model in self._chain.state.get_governance_models()], account
            )
        return WhyNotPaidView(
            epoch=epoch,
            participant=account,
            most=str(explanation.most),
            paid=str(explanation.paid),
            parts=[
                UnpaidPartView(
                    reason=part.reason,
                    words=WORDS.get(part.reason, ""),
                    subject=part.subject,
                    amount=str(part.amount),
                )
                for part in explanation.parts
            ],
            models_lacking=list(lacking),
            evidence="" if result is None else self._chain.state.results[epoch].content_cid,
        )

    async def _epoch_reward(self, epoch: EpochNumber, account: Address) -> EpochRewardView:
        result = await self._result(epoch)
        explanation = await self._explain(epoch, account, result)
        share = score = None
        if result is not None:
            share = next((share for share in result.settled if share.participant == account), None)
            score = next((score.per_mille for score in result.scores if score.participant == account), None)
        return EpochRewardView(
            epoch=epoch,
            has_result=result is not None,
            weight=0 if share is None else share.weight,
            covers_models=share is not None and share.covers_models,
            score_per_mille=score,
            most=str(explanation.most),
            paid=str(explanation.paid),
            not_paid=str(explanation.most - explanation.paid),
        )

    async def _explain(self, epoch: EpochNumber, account: Address, result: EpochResult | None) -> Explanation:
        state, parameters = self._chain.state, self._chain.parameters
        if result is None:
            available = TokenAmount(
                subsidy(epoch, parameters) + pot(epoch, state.work_coins_added, state.results, parameters)
            )
            weights = state.group_weights(epoch)
            return explain_no_result(epoch, weights, available, account, is_voided=epoch in state.voided)
        return explain(result, await self._frozen_group(epoch), account, state.poc_commits.get(epoch, {}).values())

    async def _frozen_group(self, epoch: EpochNumber) -> EpochGroup | None:
        """The group in charge in `epoch`, if a result made it."""
        before = max((number for number in self._chain.state.results if number < epoch), default=None)
        if before is None:
            return None
        made_by = await self._result(before)
        return None if made_by is None else made_by.group

    async def _result(self, epoch: EpochNumber) -> EpochResult | None:
        """The accepted result of `epoch`, None if there is none. Raises RpcError if its content is not to be had."""
        summary = self._chain.state.results.get(epoch)
        if summary is None:
            return None
        held = self._epochs.result(epoch)
        if held is not None:
            return held
        data = self._store.get_document(f"result/{summary.epoch}/{summary.content_cid}")
        try:
            if data is None:
                providers: tuple[Provider, ...] = self._presence.providers()
                with trio.fail_after(FETCH_SECONDS_MAX):
                    data = await self._content.read_bytes(summary.content_cid, providers, limit_bytes=RESULT_BYTES_MAX)
            return result_from_bytes(data, summary)
        except (ContentUnavailableError, ResultContentError, trio.TooSlowError, ValueError) as error:
            raise RpcError(
                ErrorCode.REFUSED,
                f"the result of epoch {epoch} ({summary.content_cid}) is not to be had: {error}",
                "Try again when more peers are connected: `quern peers`.",
            ) from error

    def _account(self, text: str | None) -> Address:
        return self._chain.account if text is None else Address(to_checksum_address(text))


def _score_view(epoch: EpochNumber, score: ParticipantScore) -> ScoreView:
    parts = (
        ("quality", scoring.QUALITY_TENTHS, score.quality),
        ("speed", scoring.SPEED_TENTHS, score.speed),
        ("availability", scoring.AVAILABILITY_TENTHS, score.availability),
        ("participation", scoring.PARTICIPATION_TENTHS, score.participation),
    )
    return ScoreView(
        epoch=epoch,
        participant=score.participant,
        per_mille=score.per_mille,
        parts=[_part_view(name, tenths, part) for name, tenths, part in parts],
    )


def _part_view(name: str, tenths: int, part: ScorePart) -> ScorePartView:
    return ScorePartView(
        name=name,
        weight_percent=TENTHS_PERCENT * tenths,
        per_mille=part.per_mille,
        losses=[
            PointLossView(reason=loss.reason, words=WORDS.get(loss.reason, ""), per_mille=loss.per_mille)
            for loss in part.losses
        ],
    )
