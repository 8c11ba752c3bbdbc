"""What the operator sees of Proof of Compute: batches, votes, mining, and why two results differ."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import trio

from node.control.jsonrpc import ErrorCode, RpcError
from node.control.poc_methods import BatchParams, PocParams, WhyDifferParams
from node.control.poc_views import (
    BatchEvidenceView,
    BatchView,
    DifferenceView,
    MiningView,
    ObjectionView,
    PocView,
    ValidatorView,
    WhyDifferView,
)
from node.operations.batch_evidence import BatchEvidence
from node.operations.epoch_results import parse_result, read_result
from node.ports import Chain, Content, Engine, Store
from node.protocol import unpaid
from node.protocol.agreement import committed_order
from node.protocol.differences import DIFFERENCES_MAX, Difference, differences
from node.protocol.empty_epochs import why_no_result
from node.protocol.identifiers import Address, EpochNumber
from node.protocol.records import EpochResult
from node.services.epochs import RESULT_BYTES_MAX, EpochBook
from node.services.formed_results import FormedResult, load_formed
from node.services.mining import MiningService
from node.services.objecting import DIFFERENCES_LOGGED, ObjectingService, ObjectionStatus
from node.services.presence import PresenceTable
from node.services.result_signatures import ResultSignatures
from node.services.timing import position

BATCHES_SHOWN_MAX = 2000
"""An answer over the control socket is at most a mebibyte."""
COMMITTED = "committed"


class DaemonPocOperations:
    """Implements node.control.poc_methods.PocOperations."""

    def __init__(
        self,
        chain: Chain,
        content: Content,
        store: Store,
        presence: PresenceTable,
        epochs: EpochBook,
        signatures: ResultSignatures,
        miners: Sequence[MiningService],
        engines: Sequence[Engine] = (),
        objecting: ObjectingService | None = None,
    ) -> None:
        self._chain = chain
        self._content = content
        self._store = store
        self._presence = presence
        self._epochs = epochs
        self._signatures = signatures
        self._miners = miners
        self._objecting = objecting
        self._evidence = BatchEvidence(chain, content, presence, epochs, engines)

    async def poc(self, params: PocParams) -> PocView:
        """What became of every batch of an epoch, who voted, and how far this node's miners are."""
        state = self._chain.state
        now = position(self._chain).epoch
        epoch = now if params.epoch is None else EpochNumber(params.epoch)
        if epoch > now:
            raise RpcError(ErrorCode.REFUSED, f"epoch {epoch} has not begun; this is epoch {now}", "See `quern epoch`.")
        result = await self._accepted(epoch)
        bundles = state.vote_bundles.get(epoch, {})
        fates = {} if result is None else {found.validator: found for found in result.validators}
        return PocView(
            epoch=epoch,
            has_result=result is not None,
            why_no_result="" if result is not None or epoch == now else why_no_result(epoch, state),
            batches=(self._committed(epoch) if result is None else _batches(result))[:BATCHES_SHOWN_MAX],
            validators=[
                ValidatorView(
                    account=account,
                    weight=weight,
                    bundle=bundles.get(account),
                    fate=fates[account].fate.value if account in fates else "",
                    reason=fates[account].reason if account in fates else "",
                )
                for account, weight in state.group_weights(epoch)
            ],
            mining=[
                MiningView(
                    node_id=miner.node_id,
                    epoch=miner.progress.epoch,
                    state=miner.progress.state.value,
                    nonces=miner.progress.nonces,
                )
                for miner in self._miners
            ],
            objection=None if self._objecting is None else objection_view(self._objecting.status(epoch)),
        )

    async def batch(self, params: BatchParams) -> BatchEvidenceView:
        """By what one batch was judged, and what the engine here makes of it."""
        return await self._evidence.view(params, await self._accepted(EpochNumber(params.epoch)))

    async def why_differ(self, params: WhyDifferParams) -> WhyDifferView:
        """Compare the result this node formed with a member's, with a file, or with what the chain accepted."""
        epoch = EpochNumber(params.epoch)
        formed = load_formed(self._store, epoch)
        if formed is None:
            raise RpcError(
                ErrorCode.REFUSED,
                f"this node formed no result of epoch {epoch}: it was away, or no batch was accepted",
                "See `quern poc` for what is on chain.",
            )
        ours = await read_result(self._content, self._presence, epoch, formed.content_cid)
        theirs, origin, held = await self._other(epoch, params)
        found = differences(ours, theirs)
        return WhyDifferView(
            epoch=epoch,
            ours=formed.content_cid,
            theirs=origin,
            differences=[DifferenceView(path=d.path, ours=d.ours, theirs=d.theirs) for d in found],
            cut=len(found) == DIFFERENCES_MAX,
            causes=explain_difference(found, formed, held),
        )

    async def _other(
        self, epoch: EpochNumber, params: WhyDifferParams
    ) -> tuple[EpochResult, str, frozenset[Address] | None]:
        """Return the result to compare with, where it is from, and whose bundles its maker holds, if it said so."""
        if params.file is not None:
            return parse_result(await _read_file(params.file), epoch, params.file), params.file, None
        if params.account is None:
            summary = self._chain.state.results.get(epoch)
            if summary is None:
                raise RpcError(
                    ErrorCode.REFUSED,
                    f"no result of epoch {epoch} was accepted",
                    "Name a member whose result to compare with: `quern why-differ EPOCH --peer ACCOUNT`.",
                )
            return await read_result(self._content, self._presence, epoch, summary.content_cid), "the chain", None
        account = Address(params.account)
        statement = self._signatures.newest(account, epoch)
        if statement is None:
            raise RpcError(
                ErrorCode.REFUSED,
                f"{account} signed no result of epoch {epoch} that this node heard of",
                "Only signatures of the newest epoch are kept. Compare with the chain or with a file.",
            )
        result = await read_result(self._content, self._presence, epoch, statement.content_cid)
        committed = committed_order(self._chain.state.vote_bundles.get(epoch, {}).keys())
        return result, account, self._signatures.holdings(epoch, committed).get(account)

    async def _accepted(self, epoch: EpochNumber) -> EpochResult | None:
        summary = self._chain.state.results.get(epoch)
        if summary is None:
            return None
        held = self._epochs.result(epoch)
        return held or await read_result(self._content, self._presence, epoch, summary.content_cid)

    def _committed(self, epoch: EpochNumber) -> list[BatchView]:
        return [
            BatchView(
                participant=commit.participant,
                node_id=commit.node_id,
                model_id=commit.model_id,
                nonces=commit.count,
                fate=COMMITTED,
                sampled=0,
                mismatches=0,
                weight=0,
                reason="",
                words="",
            )
            for commit in self._chain.state.poc_commits.get(epoch, {}).values()
        ]


def explain_difference(found: Sequence[Difference], ours: FormedResult, held: frozenset[Address] | None) -> list[str]:
    """Return which inputs explain that results differ, in words; `held` is what the other's maker says it holds."""
    if not found:
        return ["The results are equal."]
    causes = [f"The votes of {account} did not count here: its bundle breaks the rules." for account in ours.void]
    causes += [f"The votes of {account} did not count here: they were not to be had." for account in ours.missing]
    if held is not None:
        causes += [
            f"The votes of {account} count here, and the other does not hold them."
            for account in ours.counted
            if account not in held
        ]
    paths: Mapping[str, str] = {
        "group.models": "The two read another registry: one of them may have an endpoint of another chain.",
        "rewards": "The two go on from another result before, or another state of claims.",
    }
    if not causes:
        causes = [text for path, text in paths.items() if any(d.path.startswith(path) for d in found)]
    if not causes:
        causes = ["Both counted the same votes: the two run other versions, or one of them has a fault. Report it."]
    return causes


def objection_view(status: ObjectionStatus | None) -> ObjectionView | None:
    """Return what is shown of an accepted result's standing."""
    if status is None:
        return None
    return ObjectionView(
        finding=status.finding.value,
        differences=[difference.path for difference in status.differences[:DIFFERENCES_LOGGED]],
        objects=status.own,
        objecting=status.objecting,
        total=status.total,
        voided=status.is_voided,
    )


def _batches(result: EpochResult) -> list[BatchView]:
    return [
        BatchView(
            participant=outcome.participant,
            node_id=outcome.node_id,
            model_id=outcome.model_id,
            nonces=outcome.count,
            fate=outcome.fate.value,
            sampled=outcome.sampled,
            mismatches=outcome.mismatches,
            weight=outcome.weight,
            reason=outcome.reason,
            words=unpaid.REASONS.get(outcome.reason, ""),
        )
        for outcome in result.nodes
    ]


async def _read_file(path: str) -> bytes:
    def read() -> bytes:
        with Path(path).open("rb") as file:
            return file.read(RESULT_BYTES_MAX + 1)

    try:
        data = await trio.to_thread.run_sync(read)
    except OSError as error:
        raise RpcError(ErrorCode.REFUSED, f"{path} cannot be read: {error}", "The daemon reads it, not you.") from error
    if len(data) > RESULT_BYTES_MAX:
        raise RpcError(ErrorCode.REFUSED, f"{path} is larger than any result ({RESULT_BYTES_MAX} bytes)", "")
    return data
