"""What can be checked of a receipt by itself: hashes, signatures, the seed, the voucher. Pure, offline."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from node.protocol.claims import NOT_ASKED
from node.protocol.dossiers import AnswerEvidence, Covering, Dossier, VectorEvidence
from node.protocol.eip712 import channel_id, voucher_digest
from node.protocol.pricing import tokens_commitment
from node.protocol.receipts import draw_commitment, is_signed_by_executor, is_signed_by_payer
from node.protocol.records import Receipt
from node.protocol.seeds import SeedShareError, check_share, drawn_seed
from node.protocol.signatures import SignatureError, recover
from node.protocol.sketches import SKETCH_BYTES, inputs_commitment, vectors_commitment


class Outcome(Enum):
    """How a check ended."""

    HOLDS = "holds"
    FAILS = "fails"
    UNCHECKED = "not checked"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of a verification."""

    what: str
    outcome: Outcome
    detail: str


def holds(what: str, detail: str) -> Check:
    """Return a check that found what the receipt says."""
    return Check(what, Outcome.HOLDS, detail)


def fails(what: str, detail: str) -> Check:
    """Return a check that found something else."""
    return Check(what, Outcome.FAILS, detail)


def unchecked(what: str, detail: str) -> Check:
    """Return a check that could not be made; `detail` says what it needs."""
    return Check(what, Outcome.UNCHECKED, detail)


def verify_offline(dossier: Dossier) -> tuple[Check, ...]:
    """Check all that needs neither chain nor model."""
    checks = [*_signatures(dossier)]
    answer, receipt = dossier.answer, dossier.signed.receipt
    if receipt.vectors:
        checks += _vectors(receipt, dossier.vectors)
    elif answer is None:
        lacking = "the answer is not in the file: only who asked has it"
        checks += [unchecked(what, lacking) for what in ("prompt", "output", "draw", "seed")]
    else:
        checks += [*_commitments(receipt, answer), _seed(receipt, answer)]
    if receipt.claims_commitment != NOT_ASKED:
        checks.append(unchecked("log-probabilities", "committed to; who asked keeps none of them"))
    return (*checks, _voucher(dossier, dossier.covering))


def _signatures(dossier: Dossier) -> Iterator[Check]:
    signed = dossier.signed
    receipt = signed.receipt
    what = "executor's signature"
    if is_signed_by_executor(signed):
        yield holds(what, f"{receipt.executor} signed the receipt")
    else:
        yield fails(what, f"{receipt.executor} did not sign this")
    what = "payer's signature"
    if not signed.payer_signature:
        yield fails(what, "the payer never signed: this proves only what the executor claims")
    elif is_signed_by_payer(signed):
        yield holds(what, f"{receipt.payer} signed the receipt")
    else:
        yield fails(what, f"{receipt.payer} did not sign this")


def _commitments(receipt: Receipt, answer: AnswerEvidence) -> Iterator[Check]:
    for what, token_ids, count, commitment in (
        ("prompt", answer.prompt_ids, receipt.prompt_tokens, receipt.prompt_commitment),
        ("output", answer.output_ids, receipt.output_tokens, receipt.output_commitment),
    ):
        if len(token_ids) != count:
            yield fails(what, f"the receipt charges {count} tokens, the answer has {len(token_ids)}")
        elif tokens_commitment(token_ids) != commitment:
            yield fails(what, f"these are not the {count} tokens that the receipt commits to")
        else:
            yield holds(what, f"{count} tokens, as committed to")
    derived = draw_commitment(answer.sampling, answer.seed, answer.stop, answer.response_format)
    is_within_rule = answer.sampling.is_verifiable and not answer.response_format
    if derived != receipt.draw_commitment:
        yield fails("draw", "parameters, seed, stop texts or format are not those that the receipt commits to")
    elif receipt.is_within_rule != is_within_rule:
        yield fails("draw", f"the receipt says is_within_rule = {receipt.is_within_rule}, its parameters say otherwise")
    elif receipt.is_verifiable and not is_within_rule:
        yield fails("draw", f"the receipt says is_verifiable = {receipt.is_verifiable}, its parameters say otherwise")
    else:
        rule = "outside the rule, so unchecked"
        if receipt.is_verifiable:
            rule = "by the rule, so that each token can be checked"
        elif is_within_rule:
            rule = "by an engine that does not follow the rule, as its executor says: no audit can check them"
        yield holds("draw", f"the parameters are those committed to; tokens were drawn {rule}")


def _vectors(receipt: Receipt, given: VectorEvidence | None) -> Iterator[Check]:
    if given is None:
        lacking = "the vectors are not in the file: only who asked has them"
        yield from (unchecked(what, lacking) for what in ("inputs", "vectors"))
        return
    what, count = "inputs", sum(map(len, given.inputs))
    if count != receipt.prompt_tokens:
        yield fails(what, f"the receipt charges {receipt.prompt_tokens} tokens, the inputs have {count}")
    elif inputs_commitment(given.inputs) != receipt.prompt_commitment:
        yield fails(what, f"these are not the {count} tokens that the receipt commits to")
    else:
        yield holds(what, f"{len(given.inputs)} inputs of {count} tokens, as committed to")
    what, is_whole = "vectors", len(given.sketches) == SKETCH_BYTES * receipt.vectors
    if not is_whole or len(given.inputs) != receipt.vectors:
        yield fails(what, f"the receipt is for {receipt.vectors} vectors, one for each input")
    elif vectors_commitment(given.dimensions, given.sketches) != receipt.output_commitment:
        yield fails(what, "these are not the vectors that the receipt commits to")
    else:
        yield holds(what, f"{receipt.vectors} of {given.dimensions} dimensions, as committed to by their sketches")


def _seed(receipt: Receipt, answer: AnswerEvidence) -> Check:
    share = answer.seed_share
    if receipt.seeded_by_user != (share is None):
        return fails("seed", "receipt and answer disagree on who gave the seed")
    if share is None:
        return holds("seed", "given by the user: it binds the tokens, and says nothing of how it was chosen")
    try:
        check_share(share, receipt.request_id, receipt.payer)
    except SeedShareError as error:
        return fails("seed", str(error))
    if drawn_seed(receipt.request_id, receipt.payer, share.share) != answer.seed:
        return fails("seed", "it does not follow from the request's id and the executor's half")
    return holds("seed", f"drawn by the payer and {share.executor} together")


def _voucher(dossier: Dossier, covering: Covering | None) -> Check:
    receipt = dossier.signed.receipt
    if receipt.price == 0:
        return holds("voucher", "the answer was free of charge: none is needed")
    if covering is None:
        return unchecked("voucher", "no voucher is in the file")
    voucher = covering.voucher
    channel = channel_id(dossier.chain_id, dossier.payment_channels, receipt.payer, receipt.executor)
    if voucher.channel_id != channel:
        return fails("voucher", "it is for another channel than that of payer and executor")
    digest = voucher_digest(voucher, dossier.chain_id, dossier.payment_channels)
    try:
        signer = recover(digest, covering.signature)
    except SignatureError as error:
        return fails("voucher", f"its signature is malformed: {error}")
    if signer != receipt.payer:
        return fails("voucher", f"it was signed by {signer}, not by the payer")
    if voucher.cumulative < receipt.price:
        return fails("voucher", f"it promises {voucher.cumulative} in all, the answer costs {receipt.price}")
    return holds("voucher", f"the payer promised {voucher.cumulative} in all, this answer's {receipt.price} among it")
