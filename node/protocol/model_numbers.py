"""What of a model's record makes the numbers that engines give: all that they read, and nothing else."""

from node.protocol.records import ModelRecord


def makes_same_numbers(first: ModelRecord, second: ModelRecord) -> bool:
    """Whether two versions of a model give the same numbers: not of other weights, quantizations, arguments or context.

    Quantizations are engines' options like arguments (node/engine/arguments.py).
    """
    return _read_by_engines(first) == _read_by_engines(second)


def _read_by_engines(model: ModelRecord) -> tuple[object, ...]:
    return model.cid, model.model_args, model.quantization, model.kv_cache_quantization, model.context_length
