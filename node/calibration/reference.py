"""What one machine says of a model, for another to be compared with: vectors of nonces, and drawn answers.

It is a file that an owner carries from machine to machine. Only integers are in it, so that what is read is what was
written. It comes from outside, as files do: it is bounded, and what it says is checked before an engine is asked.
"""

import json
import re
from dataclasses import dataclass

from pydantic_core import from_json

from node.protocol.codec import SchemaError
from node.protocol.identifiers import Address, Hash32, ModelId, NodeId
from node.protocol.json_records import from_json_value, to_json_value
from node.protocol.nonces import VECTOR_BYTES
from node.protocol.sampling import SEED_MAX, SamplingParameters

FORMAT = "quern-calibration-reference/1"
FILE_BYTES_MAX = 64 * 1024 * 1024
NONCES_MAX = 65_536
ANSWERS_MAX = 1_024
ANSWER_TOKENS_MAX = 4_096
CLAIMED_TOP_MAX = 20
VOCABULARY_MAX = 2**31
TEXT_CHARACTERS_MAX = 128
PARTICIPANT = Address("0x" + "00" * 20)
"""Whose nonces the vectors are: nobody's. The prompts are as hard as anybody's."""
NODE = NodeId("calibration")
POC_SEED = Hash32(b"quern-calibration".ljust(32, b"\0"))

_MODEL_ID = re.compile(r"[a-z0-9._/-]{1,64}")


@dataclass(frozen=True, slots=True)
class ReferenceAnswer:
    """One answer, drawn by the rule, with what its machine said of each token."""

    prompt_ids: tuple[int, ...]
    output_ids: tuple[int, ...]
    sampling: SamplingParameters
    seed: int
    tops: tuple[tuple[tuple[int, int], ...], ...]
    """For each token, the likeliest ones: id, and log-probability in millionths."""

    def __post_init__(self) -> None:
        if not self.prompt_ids or not 0 < len(self.output_ids) <= ANSWER_TOKENS_MAX:
            raise ValueError(f"an answer has a prompt, and 1 to {ANSWER_TOKENS_MAX} tokens")
        if len(self.tops) != len(self.output_ids) or not all(0 < len(top) <= CLAIMED_TOP_MAX for top in self.tops):
            raise ValueError("an answer tells the likeliest tokens of each of its places")
        if min(*self.prompt_ids, *self.output_ids) < 0 or not 0 <= self.seed <= SEED_MAX:
            raise ValueError("token ids and seeds are not negative")
        if not self.sampling.is_verifiable:
            raise ValueError("an answer is drawn by the rule")


@dataclass(frozen=True, slots=True)
class Reference:
    """What one machine says of one version of a model."""

    model_id: ModelId
    model_version: int
    engine: str
    """Name of the engine, such as `vllm`."""
    engine_version: str
    hardware: str
    """Class of its hardware (calibration.py)."""
    vocabulary_size: int
    vectors: tuple[bytes, ...]
    """Quantised vectors of the nonces from 0 on, of POC_SEED, PARTICIPANT and NODE."""
    answers: tuple[ReferenceAnswer, ...]
    """Empty for a model that makes vectors instead of tokens."""

    def __post_init__(self) -> None:
        if not _MODEL_ID.fullmatch(self.model_id) or self.model_version < 1:
            raise ValueError("a reference names a model, and a version from 1 on")
        texts = (self.engine, self.engine_version, self.hardware)
        if any(len(text) > TEXT_CHARACTERS_MAX or not text.isprintable() for text in texts):
            raise ValueError("engine and hardware are short texts")
        if not 0 < self.vocabulary_size <= VOCABULARY_MAX:
            raise ValueError("a vocabulary has at least one token")
        if not 0 < len(self.vectors) <= NONCES_MAX or any(len(vector) != VECTOR_BYTES for vector in self.vectors):
            raise ValueError(f"a reference has 1 to {NONCES_MAX} vectors of {VECTOR_BYTES} bytes")
        if len(self.answers) > ANSWERS_MAX:
            raise ValueError(f"a reference has at most {ANSWERS_MAX} answers")
        for answer in self.answers:
            if max(*answer.prompt_ids, *answer.output_ids) >= self.vocabulary_size:
                raise ValueError("an answer has a token that is none of the model's")


def reference_to_json(reference: Reference) -> str:
    """Return the text of a reference file."""
    return json.dumps({"format": FORMAT, **to_json_value(reference)}, separators=(",", ":"), sort_keys=True) + "\n"


def reference_from_json(text: str) -> Reference:
    """Read a reference file. Raises SchemaError, which says what is wrong with it."""
    if len(text) > FILE_BYTES_MAX:
        raise SchemaError(f"the file is over {FILE_BYTES_MAX} bytes")
    try:
        document = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise SchemaError(f"not JSON: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise SchemaError(f"not a reference of `quern calibrate --reference`: its format is not {FORMAT}")
    return from_json_value(Reference, document)
