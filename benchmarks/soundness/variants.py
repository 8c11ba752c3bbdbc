"""Who is measured: honest machines of several kinds, and those who cheat, with the engine that each of them runs."""

from dataclasses import dataclass
from enum import Enum

REFERENCE = "reference"
PART_ANSWERS = 128
"""Answers that are measured and kept together."""
FEW, SOME, MANY = 1, 3, 12
"""Parts. With MANY, 3,072 stretches of 128 tokens: if all of them are caught, at least 99.9 % are, with 95 %
confidence."""


@dataclass(frozen=True, slots=True)
class EngineVariant:
    """One way to run one model."""

    name: str
    model: str
    """Directory of the model among those that models.py makes."""
    arguments: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()


class Way(Enum):
    """How a prover comes to its tokens."""

    BY_RULE = "by the rule"
    WRONG_SEED = "another seed than the one that is claimed"
    GREEDY = "the likeliest token instead of the drawn one"
    COOLER = "temperature 0.9 instead of 1"
    SKIPS_8 = "the prompt's first 8 tokens of 64 are not read"
    SKIPS_32 = "the prompt's first 32 tokens of 64 are not read"


@dataclass(frozen=True, slots=True)
class Prover:
    """Somebody who answers and proves work."""

    name: str
    engine: str
    is_honest: bool
    way: Way = Way.BY_RULE
    parts: int = FEW
    """How many parts of answers are measured of it."""


OLD_INSTRUCTIONS = (("ONEDNN_MAX_CPU_ISA", "AVX2"), ("ATEN_CPU_CAPABILITY", "avx2"))
"""An older processor's instruction set, for the libraries that do the arithmetic."""

ONE_CORE_EACH = (("VLLM_CPU_OMP_THREADS_BIND", "0|1"),)
"""Two halves of a model on two cores."""

ENGINES = {
    engine.name: engine
    for engine in (
        EngineVariant(REFERENCE, "sharp"),
        EngineVariant("avx2", "sharp", environment=OLD_INSTRUCTIONS),
        EngineVariant("fp32", "sharp", ("--dtype", "float32")),
        EngineVariant("tensor-parallel-2", "sharp", ("--tensor-parallel-size", "2"), ONE_CORE_EACH),
        EngineVariant("kv-fp8", "sharp", ("--kv-cache-dtype", "fp8")),
        EngineVariant("int8", "int8"),
        EngineVariant("fp8", "fp8"),
        EngineVariant("int4", "int4"),
        EngineVariant("layer-dropped", "layer-dropped"),
        EngineVariant("fine-tune", "fine-tune"),
        EngineVariant("other-model", "other-model"),
        EngineVariant("small-model", "small-model"),
    )
}
PARTS_OF_ENGINES = {REFERENCE: SOME, "fp8": SOME, "kv-fp8": FEW}
"""Of the others, MANY: honest machines and int8 because their means decide, the rest because a share is claimed."""
HONEST_ENGINES = (REFERENCE, "avx2", "fp32", "tensor-parallel-2")

PROVERS = {
    prover.name: prover
    for prover in (
        *(Prover(name, name, name in HONEST_ENGINES, parts=PARTS_OF_ENGINES.get(name, MANY)) for name in ENGINES),
        Prover("wrong-seed", REFERENCE, False, Way.WRONG_SEED),
        Prover("greedy", REFERENCE, False, Way.GREEDY),
        Prover("temperature-0.9", REFERENCE, False, Way.COOLER),
        Prover("skips-8", REFERENCE, False, Way.SKIPS_8, MANY),
        Prover("skips-32", REFERENCE, False, Way.SKIPS_32, MANY),
    )
}
