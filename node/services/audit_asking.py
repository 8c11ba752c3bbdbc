"""The auditor's side of a call of `audit/3`: asks whoever may have the evidence of an answer, and checks what comes."""

from collections.abc import Sequence

import structlog
import trio

from node.ports import CallFailedError, Network
from node.protocol.audit_evidence import (
    EVIDENCE_BYTES_MAX,
    NO_TOKENS,
    PRIVATE,
    AuditEvidence,
    is_the_receipt,
    what_is_wrong_in_slices,
)
from node.protocol.codec import to_bytes
from node.protocol.identifiers import Address, Hash32, PeerId
from node.protocol.receipt_books import BookRow
from node.protocol.shown_evidence import read_evidence_in_slices, split_evidence
from node.services.audit_frames import METHOD, AuditAsk
from node.services.slicing import Slicer

log = structlog.get_logger(__name__)

ASK_SECONDS_MAX = 10.0
"""For the evidence of one answer, some kilobytes; of a long context on a slow line the next round may be luckier."""
EXCUSES = frozenset({PRIVATE, NO_TOKENS, "outside-rule", "not-by-rule"})
"""What is wrong with evidence for which another holder has none that is better; of a private answer that was drawn."""
EXCUSES_OF_CHALLENGED = EXCUSES - {PRIVATE}
"""Who challenged a private answer hands it over, though its executor has nothing to show."""


class NotHandedOverError(Exception):
    """Nobody handed over what was committed to; `code` says what is wrong with what came, or `withheld`."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


async def ask_for_evidence(
    network: Network,
    holders: Sequence[PeerId],
    executor: Address,
    digest: Hash32,
    booked: BookRow | None,
    slicer: Slicer,
    *,
    is_accused: bool = False,
) -> AuditEvidence:
    """Ask `holders` in turn for the evidence of the receipt `digest`; return the first that is as committed to.

    `booked` and `is_accused` are as in `what_is_wrong`; `slicer` reads one after the other. Raises NotHandedOverError.
    Evidence that is only outside the rules of audits is returned too.
    """
    code, excuses = "withheld", EXCUSES if booked is not None else EXCUSES_OF_CHALLENGED
    for holder in holders:
        try:
            data = await _receive(network, holder, digest)
        except CallFailedError as error:
            log.debug("an auditor was given nothing", holder=holder, reason=str(error))
            continue
        except ValueError as error:
            log.info("an auditor was given something malformed", holder=holder, reason=str(error)[:200])
            code = "malformed"
            continue
        try:
            signed, _ = split_evidence(data)
            if not is_the_receipt(signed, executor, digest):  # before anything that the holder chose at will is read
                log.info("an auditor was given another receipt", holder=holder)
                code = "not-the-receipt"
                continue
            evidence = await slicer.run(read_evidence_in_slices(data))
            wrong = await slicer.run(what_is_wrong_in_slices(evidence, executor, digest, booked, is_accused=is_accused))
        except Exception as error:  # the holder chose the bytes: whatever they break here excuses nobody
            log.info("an auditor was given something malformed", holder=holder, reason=str(error)[:200])
            code = "malformed"
            continue
        if not wrong or wrong in excuses:
            return evidence
        if wrong == PRIVATE:
            continue  # a copy of the receipt: whoever paid has the answer
        log.info("an auditor was given something else", holder=holder, wrong=wrong)
        code = wrong
    raise NotHandedOverError(code)


async def _receive(network: Network, holder: PeerId, digest: Hash32) -> bytes:
    """Return all that a holder sends. Raises CallFailedError, ValueError if it is too much."""
    parts: list[bytes] = []
    size = 0
    ask = to_bytes(AuditAsk(digest))
    async with network.call(holder, METHOD, ask, deadline_seconds=ASK_SECONDS_MAX) as call:
        while True:
            try:
                part = await call.receive()
            except trio.EndOfChannel:
                return b"".join(parts)
            size += len(part)
            if size > EVIDENCE_BYTES_MAX:
                raise ValueError(f"evidence of more than {EVIDENCE_BYTES_MAX} bytes")
            parts.append(part)
    raise CallFailedError("lost", "the call ended without a word")
