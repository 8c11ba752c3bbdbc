"""Vectors of the rules that only daemons compute: `python -m tests.vectors.rules` writes rules.json anew.

A changed line in rules.json is a changed protocol: nodes of both versions would disagree.
"""

import json
import random
import struct
from pathlib import Path

from node.protocol.asking import booked_under
from node.protocol.codec import from_value, to_bytes, to_value
from node.protocol.identifiers import ZERO_HASH, EpochNumber, Hash32, RequestId, TokenAmount
from node.protocol.nonces import VECTOR_DIMENSIONS, draw_sample, nonce_prompt, quantise, squared_distance, vectors_root
from node.protocol.pricing import next_receipts_root, receipt_digest, tokens_commitment
from node.protocol.receipts import countersigned, draw_commitment
from node.protocol.records import (
    EpochGroup,
    EpochResult,
    GroupMember,
    MLNodeSnapshot,
    Receipt,
    RewardShare,
    SignedReceipt,
)
from node.protocol.results import pack_validator_set, summarise
from node.protocol.routing import rank_executors
from node.protocol.sampling import SamplingParameters
from node.protocol.signatures import sign
from node.protocol.sketches import (
    inputs_commitment,
    judged_inputs,
    sketch_distance,
    sketches_of,
    split_sketches,
    vectors_commitment,
)
from node.services.frames import InferenceRequest, Prompt, Turn, asking_of, request_digest
from tests.builders import NODE, SOME_CID, TINY, account, key_of, model, peer
from tests.vectors.audits import compute_audits
from tests.vectors.poc import compute_poc

PATH = Path(__file__).with_name("rules.json")
SEED = Hash32(bytes(range(32)))
VOCABULARY_SIZE = 3072


def compute() -> dict[str, object]:
    """Return all vectors, as they stand in rules.json."""
    return {
        "nonces": _nonces(),
        "poc": compute_poc(),
        "audits": compute_audits(),
        "routing": _routing(),
        "payment": _payment(),
        "embeddings": _embeddings(),
        "result": _result(),
    }


def _nonces() -> dict[str, object]:
    source = random.Random(1)
    logprobs = [[-10 * source.random() for _ in range(VECTOR_DIMENSIONS)] for _ in range(3)]
    vectors = [quantise(row) for row in logprobs]
    return {
        "seed": SEED.hex(),
        "participant": account(1),
        "nodeId": NODE,
        "vocabularySize": VOCABULARY_SIZE,
        "prompts": [
            {"nonce": nonce, "tokens": list(nonce_prompt(SEED, account(1), NODE, nonce, VOCABULARY_SIZE))}
            for nonce in (0, 1, 255, 65_536)
        ],
        "logprobs": logprobs,
        "vectors": [vector.hex() for vector in vectors],
        "distance01": squared_distance(vectors[0], vectors[1]),
        "root": vectors_root(vectors).hex(),
        "samples": [
            {
                "count": count,
                "sampleSize": size,
                "nonces": list(draw_sample(SEED, account(1), NODE, count, size)),
            }
            for count, size in ((1000, 8), (5, 8), (0, 8))
        ],
    }


def _group() -> EpochGroup:
    members = sorted(
        (
            GroupMember(
                account(number),
                peer(number),
                number * 100,
                (MLNodeSnapshot(NODE, TINY, number * 100, number * 1000, (True, False)),),
            )
            for number in (1, 2, 3, 4)
        ),
        key=lambda member: member.participant.lower(),
    )
    return EpochGroup(EpochNumber(3), tuple(members), (model(),))


def _routing() -> dict[str, object]:
    ids = [RequestId(bytes([index]) * 32) for index in range(4)]
    return {
        "throughputs": {m.participant: m.ml_nodes[0].throughput for m in _group().members},
        "nodeId": NODE,
        "ranks": [
            {
                "requestId": request_id.hex(),
                "order": [choice.participant for choice in rank_executors(request_id, _group(), TINY)],
            }
            for request_id in ids
        ],
    }


def _payment() -> dict[str, object]:
    request = InferenceRequest(
        request_id=RequestId(SEED),
        model_id=TINY,
        payer=account(1),
        executor=account(2),
        at=1_700_000_000,
        epoch=EpochNumber(3),
        prompt=Prompt((Turn("user", "a question"),)),
        prefix=(),
        max_tokens=64,
        sampling=SamplingParameters(temperature_milli=700),
        seed=None,
        stop=("\n",),
        logprobs=None,
        response_format="",
        salt=bytes(16),
    )
    receipt = Receipt(
        request_id=RequestId(SEED),
        epoch=EpochNumber(3),
        model_id=TINY,
        model_cid=SOME_CID,
        payer=account(1),
        executor=account(2),
        node_id=NODE,
        prompt_tokens=3,
        output_tokens=4,
        prompt_commitment=tokens_commitment([1, 2, 3]),
        output_commitment=tokens_commitment([4, 5, 6, 70_000]),
        draw_commitment=draw_commitment(SamplingParameters(temperature_milli=700), 5, ("\n",), ""),
        is_verifiable=True,
        seeded_by_user=False,
        at=1_700_000_000,
        price=TokenAmount(98 * 10**18),
        asking=asking_of(request),
    )
    by_executor, by_payer = (sign(key_of(number), receipt_digest(receipt)) for number in (2, 1))
    return {
        "requestBytes": to_bytes(request).hex(),
        "requestBody": asking_of(request).body.hex(),
        "requestDigest": request_digest(request).hex(),
        "requestSignature": sign(key_of(1), request_digest(request)).hex(),
        "bookedUnder": booked_under(receipt).hex(),
        "receiptBytes": to_bytes(receipt).hex(),
        "receiptDigest": receipt_digest(receipt).hex(),
        "receiptsRootAfterOne": next_receipts_root(ZERO_HASH, receipt).hex(),
        "commitmentOf123": tokens_commitment([1, 2, 3]).hex(),
        "drawCommitment": receipt.draw_commitment.hex(),
        "signedReceiptBytes": to_bytes(countersigned(SignedReceipt(receipt, by_executor), by_payer)).hex(),
    }


def _embeddings() -> dict[str, object]:
    """Sketches of vectors, and what their receipt commits to."""
    source = random.Random(5)
    given = [struct.pack("<100f", *(source.gauss(0, 1) for _ in range(100))) for _ in range(2)]
    inputs = ((1, 2, 3), (4, 70_000))
    sketches = sketches_of(b"".join(given), 100)
    return {
        "vectors": [vector.hex() for vector in given],
        "sketches": [sketch.hex() for sketch in split_sketches(sketches)],
        "distance": sketch_distance(*split_sketches(sketches)),
        "inputs": inputs,
        "inputsCommitment": inputs_commitment(inputs).hex(),
        "vectorsCommitment": vectors_commitment(100, sketches).hex(),
        "judgedOf100": judged_inputs([(number,) for number in range(100)], Hash32(SEED), Hash32(bytes(32))),
    }


def _result() -> dict[str, object]:
    rewards = tuple(RewardShare(m.participant, TokenAmount(m.weight * 10**18)) for m in _group().members)
    result = EpochResult(EpochNumber(2), _group(), rewards, TokenAmount(1000 * 10**18))
    summary, packed = summarise(result, SOME_CID)
    assert from_value(EpochResult, to_value(result)) == result
    assert packed == pack_validator_set([(m.participant, m.weight) for m in _group().members])
    return {
        "bytes": to_bytes(result).hex(),
        "validatorSet": packed.hex(),
        "validatorSetHash": summary.validator_set_hash.hex(),
        "totalWeight": summary.total_weight,
        "rewardsRoot": summary.rewards_root.hex(),
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps(compute(), indent=1) + "\n")
