"""The vectors of verifiable sampling: what any engine that follows the rule computes.

`python -m tests.vectors.sampling` writes sampling.json anew; a changed line is a changed protocol. Logits are multiples
of 1/64, exact in single precision; no draw is nearer than 0.001 to another, so single precision decides all of them.
"""

import json
import random
from pathlib import Path
from typing import Any

from node.protocol.draws import draw, survivors, temperature_of
from node.protocol.identifiers import RequestId
from node.protocol.noise import noise, noise_bits
from node.protocol.sampling import SamplingParameters
from node.protocol.seeds import commitment_of, drawn_seed, make_share, share_digest, share_of
from node.protocol.signatures import sign
from tests.builders import account, key_of

FILE = Path(__file__).with_name("sampling.json")
PLACES = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (2**32, 7, 3), (2**63 - 1, 131_071, 128_255), (12345, 63, 3071))
PARAMETERS = (
    SamplingParameters(temperature_milli=0),
    SamplingParameters(),
    SamplingParameters(temperature_milli=700),
    SamplingParameters(temperature_milli=2000),
    SamplingParameters(temperature_milli=5),
    SamplingParameters(top_k=5),
    SamplingParameters(top_p_milli=500),
    SamplingParameters(min_p_milli=200),
    SamplingParameters(temperature_milli=1300, top_k=20, top_p_milli=900, min_p_milli=20),
)
VOCABULARY_SIZE = 96
DRAWS_PER_PARAMETERS = 6
GAP_MIN = 1e-3


def compute() -> dict[str, Any]:
    """Return all vectors."""
    secret, request_id, payer, executor = bytes(range(32)), RequestId(b"\x07" * 32), account(1), account(2)
    share = share_of(secret, request_id, payer)
    commitment = commitment_of(secret)
    made = make_share(secret, request_id, payer, executor, lambda digest: sign(key_of(2), digest))
    return {
        "noise": [
            {"seed": seed, "position": position, "token": token, "bits": noise_bits(seed, position, token),
             "noise": round(noise(seed, position, token), 7)}
            for seed, position, token in PLACES
        ],
        "draws": _draws(),
        "seed": {
            "secret": secret.hex(),
            "commitment": commitment.hex(),
            "requestId": request_id.hex(),
            "payer": payer,
            "executor": executor,
            "share": share.hex(),
            "digest": share_digest(request_id, payer, executor, commitment, share).hex(),
            "signature": made.signature.hex(),
            "seed": drawn_seed(request_id, payer, share),
        },
    }  # fmt: skip


def _draws() -> list[dict[str, Any]]:
    source = random.Random(1)
    found = []
    for parameters in PARAMETERS:
        count = 0
        while count < DRAWS_PER_PARAMETERS:
            logits = [round(source.gauss(0, 2) * 64) / 64 for _ in range(VOCABULARY_SIZE)]
            seed, position = source.getrandbits(63), source.randrange(4096)
            if _is_clear(logits, seed, position, parameters):
                count += 1
                found.append(
                    {
                        "logits": logits,
                        "seed": seed,
                        "position": position,
                        "temperatureMilli": parameters.temperature_milli,
                        "topK": parameters.top_k,
                        "topPMilli": parameters.top_p_milli,
                        "minPMilli": parameters.min_p_milli,
                        "token": draw(logits, seed, position, parameters),
                    }
                )
    return found


def _is_clear(logits: list[float], seed: int, position: int, parameters: SamplingParameters) -> bool:
    if parameters.temperature_milli == 0:
        return True
    scaled = [logit / temperature_of(parameters) for logit in logits]
    scores = sorted(scaled[token] + noise(seed, position, token) for token in survivors(scaled, parameters))
    return len(scores) < 2 or scores[-1] - scores[-2] > GAP_MIN


def render() -> str:
    """Return the file's text: an entry per line."""
    found = compute()
    lists = {
        key: "[\n" + ",\n".join(f"  {json.dumps(entry)}" for entry in found[key]) + "\n ]" for key in ("noise", "draws")
    }
    seed = json.dumps(found["seed"], indent=2).replace("\n}", "\n }")
    return "{\n" + ",\n".join(f' "{key}": {text}' for key, text in (*lists.items(), ("seed", seed))) + "\n}\n"


if __name__ == "__main__":
    FILE.write_text(render(), encoding="utf-8")
