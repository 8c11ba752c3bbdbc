"""The vectors that Solidity and Python share: computed by the Python rules, read by the tests of both.

`python -m tests.vectors.shared` writes shared.json anew; a test fails when the rules no longer give what is written.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from node.protocol.cids import cid_to_bytes
from node.protocol.eip712 import (
    access_request_digest,
    channel_id,
    dispute_verdict_digest,
    epoch_result_digest,
    objection_digest,
    verdict_digest,
    voucher_digest,
)
from node.protocol.events import ParametersScheduled
from node.protocol.identifiers import Address, BlockNumber, Cid, EpochNumber, Hash32, ModelId, TokenAmount
from node.protocol.records import (
    AccessRequest,
    EpochParameters,
    EpochResultSummary,
    OffenceVerdict,
    RewardShare,
    Voucher,
)
from node.protocol.results import pack_validator_set
from node.protocol.rewards import accumulate, get_settle_amounts, pot, reward_proof, rewards_root, subsidy
from node.protocol.schedules import ParameterSchedule
from node.protocol.stages import stage_at
from node.protocol.verdicts import Offence
from tests.builders import account

FILE = Path(__file__).with_name("shared.json")
CHAIN_ID = 31337
CONTRACT = account(99)
CID = Cid("bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy")
PARAMETERS = EpochParameters(
    genesis_block=BlockNumber(1000),
    epoch_blocks=60,
    generate_offset=20,
    exchange_offset=30,
    validate_offset=34,
    vote_exchange_offset=42,
    form_offset=46,
    load_offset=54,
    poc_sample_size=8,
    poc_reject_mismatches=3,
    unit_price=TokenAmount(10**12),
    initial_subsidy=TokenAmount(100 * 10**18),
    halving_epochs=100,
)
BLOCKS = (1000, 1019, 1020, 1029, 1030, 1033, 1034, 1041, 1042, 1045, 1046, 1053, 1054, 1059, 1060, 7777, 10**9)
CHANGES = (
    ParametersScheduled(EpochNumber(2), BlockNumber(1120), 90, 40, 50, 54, 62, 66, 74, 64, 4, TokenAmount(2 * 10**12)),
    ParametersScheduled(EpochNumber(7), BlockNumber(1570), 31, 5, 10, 15, 20, 25, 30, 8, 8, TokenAmount(1)),
)
"""A longer epoch from epoch 2 on, a shorter one from epoch 7 on; told in blocks 1000 and 1300."""
CHANGED_BLOCKS = (
    *(1000, 1119, 1120, 1159, 1160, 1193, 1194, 1209, 1210, 1300, 1389, 1390),
    *(1569, 1570, 1574, 1575, 1599, 1600, 1601, 1631, 1632, 10**6),
)
EPOCHS = (0, 99, 100, 199, 200, 6_699, 6_700, 25_599, 25_600, 2**40)


@dataclass(frozen=True, slots=True)
class SettledEpoch:
    """An epoch of the chain's money: what was put into the pot before, and who proved what."""

    epoch: int
    work_coins: int
    weights: dict[int, int]
    """By participant number."""
    covering: frozenset[int] = frozenset()
    scores: dict[int, int] = field(default_factory=dict)
    unpaid: frozenset[int] = frozenset()
    is_voided: bool = False
    claimers: tuple[int, ...] = ()
    """Who claims once the result is in effect, or instead of it."""


SETTLED = (
    SettledEpoch(0, 0, {1: 300, 2: 150, 3: 25}, claimers=(1,)),
    SettledEpoch(1, 7 * 10**18 + 1, {1: 300, 2: 150, 3: 25}, frozenset({2}), {1: 700, 3: 0}, claimers=(1, 2)),
    SettledEpoch(2, 10**18, {1: 1, 2: 10**6, 3: 1}, is_voided=True, claimers=(3,)),
    SettledEpoch(3, 0, {1: 7, 2: 11, 3: 13}, scores={1: 999, 2: 1, 3: 500}, unpaid=frozenset({2}), claimers=(3,)),
    SettledEpoch(99, 0, {4: 1}, claimers=(4,)),
    SettledEpoch(100, 3, {1: 3, 4: 4}, frozenset({1, 4}), claimers=(1, 4)),
    SettledEpoch(101, 10**17, {3: 10**12, 4: 1}, is_voided=True),
    SettledEpoch(250, 2 * 10**18, {2: 5, 3: 5}, claimers=(2, 3)),
    SettledEpoch(7000, 5, {1: 1, 2: 1, 3: 1}, claimers=(1, 2, 3)),
)
"""Halvings at 100 and 200 epochs, and one after which nothing is left to mint: the last pays from the pot alone."""


def _settlement() -> list[dict[str, Any]]:
    """What the chain must hold after each of SETTLED, by the rules that form results."""
    results: dict[EpochNumber, EpochResultSummary] = {}
    claimed: dict[Address, TokenAmount] = {}
    shares: tuple[RewardShare, ...] = ()
    added, steps = 0, []
    for step in SETTLED:
        added += step.work_coins
        epoch = EpochNumber(step.epoch)
        shared = pot(epoch, TokenAmount(added), results, PARAMETERS)
        earned = get_settle_amounts(
            {account(number): weight for number, weight in step.weights.items()},
            {account(number) for number in step.covering},
            TokenAmount(subsidy(epoch, PARAMETERS) + shared),
            {account(number): score for number, score in step.scores.items()},
            {account(number) for number in step.unpaid},
        )
        formed, total = accumulate(shares, claimed, earned), TokenAmount(sum(earned.values()))
        if not step.is_voided:
            shares = formed
            results[epoch] = EpochResultSummary(epoch, CID, Hash32(bytes(32)), 1, rewards_root(formed), total)
        claims = []
        for number in step.claimers:
            cumulative, proof = reward_proof(shares, account(number))
            claims.append(
                {
                    "account": account(number),
                    "cumulative": str(cumulative),
                    "amount": str(cumulative - claimed.get(account(number), 0)),
                    "proof": [_hex(node) for node in proof],
                }
            )
            claimed[account(number)] = cumulative
        steps.append(
            {
                "epoch": step.epoch,
                "workCoins": str(step.work_coins),
                "pot": str(shared),
                "root": _hex(rewards_root(formed)),
                "total": str(total),
                "voided": int(step.is_voided),
                "fundedAfter": str(sum(summary.reward_total for summary in results.values())),
                "claimedAfter": str(sum(claimed.values())),
                "claims": claims,
            }
        )
    return steps


def compute() -> dict[str, Any]:
    """Return all vectors."""
    voucher = Voucher(
        channel_id(CHAIN_ID, CONTRACT, account(1), account(2)), TokenAmount(123_456_789 * 10**12), Hash32(b"\x07" * 32)
    )
    members = sorted(((account(number), 10 * number) for number in (1, 2, 3)), key=lambda entry: entry[0].lower())
    packed = pack_validator_set(members)
    shares = [
        RewardShare(member, TokenAmount(weight * 10**18 + index)) for index, (member, weight) in enumerate(members)
    ]
    summary = EpochResultSummary(
        epoch=EpochNumber(12),
        content_cid=CID,
        validator_set_hash=Hash32(b"\x05" * 32),
        total_weight=60,
        rewards_root=rewards_root(shares),
        reward_total=TokenAmount(42 * 10**18),
    )
    result_digest = epoch_result_digest(summary, CHAIN_ID, CONTRACT)
    verdict = OffenceVerdict(EpochNumber(7), account(3), Offence.DOWNTIME, CID)
    request = AccessRequest(ModelId("models/gated-7b"), account(2), nonce=2**200 + 1, expiry=1_800_000_000)
    positions = [stage_at(block, PARAMETERS) for block in BLOCKS]
    changed = ParameterSchedule(PARAMETERS, CHANGES)
    later = [stage_at(block, changed) for block in CHANGED_BLOCKS]
    return {
        "chainId": CHAIN_ID,
        "contract": CONTRACT,
        "stages": {
            "blocks": list(BLOCKS),
            "epochs": [position.epoch for position in positions],
            "stages": [int(position.stage) for position in positions],
            "firstBlocks": [position.first_block for position in positions],
            "nextBlocks": [position.next_block for position in positions],
        },
        "changes": {
            "at": [1000, 1300],
            "fromEpochs": [change.from_epoch for change in CHANGES],
            "fromBlocks": [change.from_block for change in CHANGES],
            "parameters": [
                value
                for change in CHANGES
                for name, value in asdict(change).items()
                if name not in ("from_epoch", "from_block")
            ],
            "blocks": list(CHANGED_BLOCKS),
            "epochs": [position.epoch for position in later],
            "stages": [int(position.stage) for position in later],
            "firstBlocks": [position.first_block for position in later],
            "nextBlocks": [position.next_block for position in later],
        },
        "subsidies": {"epochs": list(EPOCHS), "amounts": [str(subsidy(epoch, PARAMETERS)) for epoch in EPOCHS]},
        "voucher": {
            "payer": account(1),
            "payee": account(2),
            "channelId": _hex(voucher.channel_id),
            "cumulative": str(voucher.cumulative),
            "receiptsRoot": _hex(voucher.receipts_root),
            "digest": _hex(voucher_digest(voucher, CHAIN_ID, CONTRACT)),
        },
        "result": {
            "epoch": summary.epoch,
            "contentCid": _hex(cid_to_bytes(summary.content_cid)),
            "validatorSetHash": _hex(summary.validator_set_hash),
            "totalWeight": summary.total_weight,
            "rewardsRoot": _hex(summary.rewards_root),
            "rewardTotal": str(summary.reward_total),
            "digest": _hex(result_digest),
            "objectionDigest": _hex(objection_digest(summary.epoch, result_digest, CHAIN_ID, CONTRACT)),
        },
        "verdict": {
            "epoch": verdict.epoch,
            "participant": verdict.participant,
            "offence": verdict.offence.value,
            "evidenceCid": _hex(cid_to_bytes(verdict.evidence_cid)),
            "digest": _hex(verdict_digest(verdict, CHAIN_ID, CONTRACT)),
        },
        "disputeVerdict": {
            "promptId": 12,
            "forUserDigest": _hex(dispute_verdict_digest(12, for_user=True, chain_id=CHAIN_ID, coordinator=CONTRACT)),
            "againstUserDigest": _hex(
                dispute_verdict_digest(12, for_user=False, chain_id=CHAIN_ID, coordinator=CONTRACT)
            ),
        },
        "accessRequest": {
            "modelId": request.model_id,
            "account": request.account,
            "nonce": str(request.nonce),
            "expiry": request.expiry,
            "digest": _hex(access_request_digest(request, CHAIN_ID, CONTRACT)),
        },
        "validatorSet": {
            "packed": _hex(packed),
            "total": 60,
            "first": members[0][0],
            "firstWeight": members[0][1],
        },
        "reward": {
            "root": _hex(rewards_root(shares)),
            "account": shares[1].account,
            "cumulative": str(shares[1].cumulative),
            "proof": [_hex(node) for node in reward_proof(shares, shares[1].account)[1]],
        },
        "settlement": {"steps": len(SETTLED), "claims": [len(s.claimers) for s in SETTLED], "epochs": _settlement()},
    }


def _hex(data: bytes) -> str:
    return "0x" + data.hex()


def render() -> str:
    """Return the file's text."""
    return json.dumps(compute(), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(render(), encoding="utf-8")
