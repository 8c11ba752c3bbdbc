"""What the operator sees of scores and rewards: read from results' contents, explained by the rules that made them."""

from collections.abc import Sequence

import trio

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
from node.operations.remedies import REMEDIES
from node.ports import Chain, Content, ContentUnavailableError, Provider, Store
from node.protocol import scores as scoring
from node.protocol import unpaid
from node.protocol.empty_epochs import why_no_result, why_nothing_to_earn
from node.protocol.findings import ParticipantScore, ScorePart
from node.protocol.identifiers import Address, EpochNumber, TokenAmount
from node.protocol.records import EpochGroup, EpochResult
from node.protocol.rewards import pot, subsidy
from node.protocol.unpaid import Explanation, UnpaidPart, explain, explain_no_result, models_lacking
from node.services.epochs import RESULT_BYTES_MAX, EpochBook, ResultContentError, result_from_bytes
from node.services.presence import PresenceTable
from node.services.timing import position

FETCH_SECONDS_MAX = 20.0
"""How long an operator waits for old results that are not here, all together: `quern` waits for half a minute."""
UNPAID_WORDS = {**scoring.REASONS, **unpaid.REASONS}
SCORE_WORDS = {**unpaid.REASONS, **scoring.REASONS}
"""Some codes are of both: each is told in the words of what it is about."""
SCORE_PARTS = (
    ("quality", scoring.QUALITY_TENTHS),
    ("speed", scoring.SPEED_TENTHS),
    ("availability", scoring.AVAILABILITY_TENTHS),
    ("participation", scoring.PARTICIPATION_TENTHS),
)
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
        until = trio.current_time() + FETCH_SECONDS_MAX
        claimed = state.claimed.get(account, TokenAmount(0))
        cumulative: TokenAmount | None = claimed
        in_effect = max((number for number in state.results if number < newest), default=None)
        if in_effect is not None:
            try:
                result = await self._result(in_effect, until)
            except RpcError:
                cumulative = None
            else:
                shares = {} if result is None else {share.account: share.cumulative for share in result.rewards}
                cumulative = shares.get(account, claimed)
        shown = map(EpochNumber, range(last, first - 1, -1))
        epochs = [await self._epoch_reward(epoch, account, until) for epoch in shown]
        return RewardsView(
            participant=account,
            cumulative=None if cumulative is None else str(cumulative),
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
        until = trio.current_time() + FETCH_SECONDS_MAX
        result = await self._result(epoch, until)
        explanation = await self._explain(epoch, account, result, until)
        lacking: Sequence[str] = ()
        if result is not None and any(part.reason == unpaid.COVERAGE for part in explanation.parts):
            lacking = models_lacking(result, account)
        return WhyNotPaidView(
            epoch=epoch,
            participant=account,
            most=str(explanation.most),
            paid=str(explanation.paid),
            parts=[
                UnpaidPartView(
                    reason=part.reason,
                    words=self._unpaid_words(epoch, part),
                    remedy=REMEDIES.get(part.reason, "").replace("EPOCH", str(epoch)),
                    subject=part.subject,
                    amount=str(part.amount),
                )
                for part in explanation.parts
            ],
            models_lacking=list(lacking),
            evidence="" if result is None else self._chain.state.results[epoch].content_cid,
            why_nothing="" if explanation.most else why_nothing_to_earn(epoch, self._chain.state, account),
        )

    def _unpaid_words(self, epoch: EpochNumber, part: UnpaidPart) -> str:
        if part.reason == unpaid.NO_RESULT:
            return f"{unpaid.REASONS[part.reason]}: {why_no_result(epoch, self._chain.state)}"
        if any(part.subject == name for name, _ in SCORE_PARTS):
            return SCORE_WORDS.get(part.reason, "")
        return UNPAID_WORDS.get(part.reason, "")

    async def _epoch_reward(self, epoch: EpochNumber, account: Address, until: float) -> EpochRewardView:
        try:
            result = await self._result(epoch, until)
            explanation = await self._explain(epoch, account, result, until)
        except RpcError:  # the content of this result, or of the one before; the other epochs are shown all the same
            return EpochRewardView(
                epoch=epoch,
                has_result=epoch in self._chain.state.results,
                is_known=False,
                weight=0,
                covers_models=False,
                score_per_mille=None,
                most="0",
                paid="0",
                not_paid="0",
            )
        share = score = None
        if result is not None:
            share = next((share for share in result.settled if share.participant == account), None)
            score = next((score.per_mille for score in result.scores if score.participant == account), None)
        return EpochRewardView(
            epoch=epoch,
            has_result=result is not None,
            is_known=True,
            weight=0 if share is None else share.weight,
            covers_models=share is not None and share.covers_models,
            score_per_mille=score,
            most=str(explanation.most),
            paid=str(explanation.paid),
            not_paid=str(explanation.most - explanation.paid),
        )

    async def _explain(
        self, epoch: EpochNumber, account: Address, result: EpochResult | None, until: float
    ) -> Explanation:
        state, parameters = self._chain.state, self._chain.parameters
        if result is None:
            available = TokenAmount(
                subsidy(epoch, parameters) + pot(epoch, state.work_coins_added, state.results, parameters)
            )
            weights = state.group_weights(epoch)
            return explain_no_result(epoch, weights, available, account, is_voided=epoch in state.voided)
        commits = state.poc_commits.get(epoch, {}).values()
        return explain(result, await self._frozen_group(epoch, until), account, commits)

    async def _frozen_group(self, epoch: EpochNumber, until: float) -> EpochGroup | None:
        """The group in charge in `epoch`, if a result made it."""
        before = max((number for number in self._chain.state.results if number < epoch), default=None)
        if before is None:
            return None
        made_by = await self._result(before, until)
        return None if made_by is None else made_by.group

    async def _result(self, epoch: EpochNumber, until: float) -> EpochResult | None:
        """The accepted result of `epoch`, None if there is none. Raises RpcError if its content is not had `until` then
        (trio's clock): several are looked for in the time that one command waits."""
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
                with trio.fail_at(until):
                    data = await self._content.read_bytes(summary.content_cid, providers, limit_bytes=RESULT_BYTES_MAX)
            return result_from_bytes(data, summary)
        except (ContentUnavailableError, ResultContentError, trio.TooSlowError, ValueError) as error:
            reason = str(error) or "nobody gave it in time"
            raise RpcError(
                ErrorCode.REFUSED,
                f"the result of epoch {epoch} ({summary.content_cid}) is not to be had: {reason}",
                "Try again when more peers are connected: `quern peers`.",
            ) from error

    def _account(self, text: str | None) -> Address:
        return self._chain.account if text is None else Address(text)


def _score_view(epoch: EpochNumber, score: ParticipantScore) -> ScoreView:
    parts = (score.quality, score.speed, score.availability, score.participation)
    return ScoreView(
        epoch=epoch,
        participant=score.participant,
        per_mille=score.per_mille,
        parts=[_part_view(name, tenths, part) for (name, tenths), part in zip(SCORE_PARTS, parts, strict=True)],
    )


def _part_view(name: str, tenths: int, part: ScorePart) -> ScorePartView:
    return ScorePartView(
        name=name,
        weight_percent=TENTHS_PERCENT * tenths,
        per_mille=part.per_mille,
        losses=[
            PointLossView(reason=loss.reason, words=SCORE_WORDS.get(loss.reason, ""), per_mille=loss.per_mille)
            for loss in part.losses
        ],
    )
