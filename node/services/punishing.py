"""Has proven offences punished: members sign the verdicts that an accepted result names, and one of them submits.

*Detail.* A result's `penalties` are what the epoch's evidence proves, and its content's CID is the evidence. Once the
result is in effect (nobody can void it any more), each member that computed the same result by itself signs a verdict
for every penalty in it; one that only heard of the result, or objected to it, vouches for nothing. Signatures go by
gossip until the chain has the punishment or it is too late for it. Whoever has signatures of more than two thirds of
the weight submits, each member a few blocks after the one before it, so that one transaction is paid for.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import structlog
import trio

from node.ports import Chain, EquivocationError, Network, Store, Validity
from node.protocol.actions import PunishParticipant
from node.protocol.eip712 import epoch_result_digest, verdict_digest
from node.protocol.identifiers import Address, Cid, EpochNumber, Hash32
from node.protocol.messages import Message, VerdictSignature
from node.protocol.records import OffenceVerdict
from node.protocol.signatures import SignatureError, recover
from node.protocol.verdicts import Offence
from node.services.epochs import EpochBook
from node.services.formed_results import has_objected
from node.services.giving_way import GivingWay
from node.services.gossip import GossipRouter
from node.services.key_tasks import KeyTasks
from node.services.settlements import Settlements
from node.services.timing import position

log = structlog.get_logger(__name__)

VERDICT_EPOCHS_MAX = 8
"""A verdict is executed at most so many epochs after its offence, as in the Slashing contract."""
VERDICTS_MAX = 1024
"""Offences in work at once: twice the members of a group. More at a time wait for those before them."""
REPEAT_BLOCKS = 10
"""A signature is gossiped again after so many blocks without a punishment: gossip promises no delivery."""
SUBMITTER_PATIENCE_BLOCKS = 3
"""How long each member waits for the one before it to submit."""

VerdictKey = tuple[EpochNumber, Address, Offence]


FORMED = b"formed"


def formed_document(epoch: EpochNumber, content_cid: Cid) -> str:
    """Return under which key a node remembers (FORMED) that it formed this result of `epoch` by itself."""
    return f"formed/{epoch}/{content_cid}"


@dataclass(slots=True)
class _Case:
    """What is known of one verdict."""

    verdict: OffenceVerdict
    signatures: dict[Address, bytes] = field(default_factory=dict)
    """By member: bounded by the group."""
    said_at: int | None = None
    """Block at which this node gossiped its own signature last."""
    quorum_at: int | None = None
    """Block at which there were enough signatures."""
    giving_way: GivingWay = field(default_factory=lambda: GivingWay(SUBMITTER_PATIENCE_BLOCKS))
    """To who submits before this node does."""


class PunishingService:
    """Signs, gathers and submits verdicts."""

    def __init__(self, chain: Chain, network: Network, store: Store, epochs: EpochBook, router: GossipRouter) -> None:
        self._chain = chain
        self._network = network
        self._store = store
        self._epochs = epochs
        self._settlements = Settlements(chain)
        self._cases: dict[VerdictKey, _Case] = {}
        router.register(VerdictSignature, self._judge, self._take)

    async def run(self) -> None:
        """Look at every new block at what is to be punished."""
        async with trio.open_nursery() as nursery:
            submissions = KeyTasks(nursery, at_once=VERDICTS_MAX)
            async for head in self._chain.heads():
                self._open_cases()
                for key in list(self._cases):
                    if key in self._cases:
                        await self._pursue(key, self._cases[key], head.number, submissions)

    def _open_cases(self) -> None:
        """Keep a case for every due verdict, and none that is done or too late."""
        due = dict(self._due_verdicts())
        for key in self._cases.keys() - due.keys():
            del self._cases[key]
        for key, verdict in due.items():
            known = self._cases.get(key)
            if (known is None and len(self._cases) < VERDICTS_MAX) or (known is not None and known.verdict != verdict):
                self._cases[key] = _Case(verdict)

    def _due_verdicts(self) -> Iterator[tuple[VerdictKey, OffenceVerdict]]:
        """Verdicts on the penalties of results in effect that the chain has not executed yet."""
        state, now = self._chain.state, position(self._chain).epoch
        for epoch in range(max(0, now - VERDICT_EPOCHS_MAX), now):
            number = EpochNumber(epoch)
            result, summary = self._epochs.result(number), state.results.get(number)
            if result is None or summary is None:
                continue
            for decision in result.penalties:
                key = (number, decision.participant, decision.offence)
                if key not in state.punished:
                    evidence = summary.content_cid
                    yield key, OffenceVerdict(number, decision.participant, decision.offence, evidence)

    async def _pursue(self, key: VerdictKey, case: _Case, block: int, submissions: KeyTasks) -> None:
        """Sign and gossip, and have it submitted when it is this node's turn: a task of its own, for a transaction may
        be stuck for hours, and the signatures of all other cases with it."""
        epoch = key[0]
        weights = dict(self._chain.state.group_weights(epoch))
        if weights.get(self._chain.account, 0) <= 0:
            return
        own = case.signatures.get(self._chain.account) or self._sign(case)
        if own is not None and (case.said_at is None or block >= case.said_at + REPEAT_BLOCKS):
            case.said_at = block
            await self._network.publish(VerdictSignature(case.verdict, own))
        if 3 * sum(weights.get(signer, 0) for signer in case.signatures) <= 2 * sum(weights.values()):
            return
        case.quorum_at = block if case.quorum_at is None else case.quorum_at
        order = sorted(weights, key=str.lower)
        turn = (order.index(self._chain.account) - epoch) % len(order)
        if block >= case.quorum_at + turn * SUBMITTER_PATIENCE_BLOCKS:
            signers = (account for account in order if weights[account] > 0 and account in case.signatures)
            signatures = tuple((signer, case.signatures[signer]) for signer in signers)
            submissions.start(key, partial(self._submit, case, signatures, block))

    async def _submit(self, case: _Case, signatures: tuple[tuple[Address, bytes], ...], block: int) -> None:
        epoch = case.verdict.epoch
        name = f"punish/{epoch}/{case.verdict.participant}/{case.verdict.offence.value}"
        action = PunishParticipant(case.verdict, signatures)
        if await case.giving_way.is_overtaken(self._chain, action, block):
            return  # until its block is confirmed, or gone
        if await self._settlements.settle(name, action):
            log.warning(
                "a participant is punished",
                epoch=epoch,
                participant=case.verdict.participant,
                offence=case.verdict.offence.name.lower(),
                evidence=case.verdict.evidence_cid,
            )

    def _sign(self, case: _Case) -> bytes | None:
        """Sign a verdict of a result that this node computed itself and did not object to later; None for any other, or
        a second of its kind.
        """
        verdict = case.verdict
        if self._store.get_document(formed_document(verdict.epoch, verdict.evidence_cid)) != FORMED:
            return None
        summary = self._chain.state.results.get(verdict.epoch)
        if summary is None or summary.content_cid != verdict.evidence_cid:
            return None  # it was voided, or another took its place, since the case was opened
        result = epoch_result_digest(summary, self._chain.chain_id, self._chain.epoch_manager)
        if has_objected(self._store, verdict.epoch, result):
            return None
        digest = self._digest(verdict)
        try:
            self._store.record_duty(f"verdict/{verdict.epoch}/{verdict.participant}/{verdict.offence.value}", digest)
        except EquivocationError as error:
            log.error("a verdict contradicts one that was signed before; it is not signed", reason=str(error))
            return None
        signature = self._chain.sign(digest)
        case.signatures[self._chain.account] = signature
        return signature

    def _judge(self, message: Message) -> Validity:
        body = message.body
        if not isinstance(body, VerdictSignature):
            return Validity.REJECT
        verdict = body.verdict
        case = self._cases.get((verdict.epoch, verdict.participant, verdict.offence))
        if case is None or case.verdict != verdict:
            return Validity.IGNORE  # it may be of a result that is not here yet, or was punished a moment ago
        if case.signatures.get(message.sender) == body.signature:
            return Validity.ACCEPT  # repeated for those who missed it
        if dict(self._chain.state.group_weights(verdict.epoch)).get(message.sender, 0) <= 0:
            return Validity.IGNORE
        try:
            signer = recover(self._digest(verdict), body.signature)
        except SignatureError:
            return Validity.REJECT
        return Validity.ACCEPT if signer == message.sender else Validity.REJECT

    def _take(self, message: Message) -> None:
        body = message.body
        if isinstance(body, VerdictSignature):
            case = self._cases.get((body.verdict.epoch, body.verdict.participant, body.verdict.offence))
            if case is not None and case.verdict == body.verdict:
                case.signatures[message.sender] = body.signature

    def _digest(self, verdict: OffenceVerdict) -> Hash32:
        return verdict_digest(verdict, self._chain.chain_id, self._chain.slashing)
