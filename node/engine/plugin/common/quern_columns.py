"""Has vLLM's server tell a prompt's log-probabilities as columns of numbers, for requests that want numbers alone.

Purpose: proofs and audits are made of many log-probabilities. vLLM makes an object of each, looks up the text of its
token and writes both as JSON: most of its server's work on them, done by the process that streams users' answers, which
wait meanwhile. And whoever asked takes as long to read it. A request with `vllm_xargs: {"quern_columns": FIRST}` is
told of the places from FIRST (1 or more) on, in one piece. Others are not touched.

Detail: what the engine hands to its server are two tables, of token ids and of log-probabilities, with a row for each
place: the prompt's own token first, then the likeliest. They are told as they are: in `prompt_logprobs`, after the
null of the first place, stands one entry of token -1, whose `rank` is the number of columns and whose `decoded_token`
is, in base64, the ids (int32) and then the log-probabilities (float32), both little-endian, row by row. It is the same
with GPUs and without. The token that follows the prompt is told without texts of its alternatives. vLLM calls this in
each of its processes, by the entry point in the `.dist-info` beside it. Runs in the engine's environment.
"""

import base64
import importlib
import inspect
import logging
from collections.abc import Callable
from typing import Any

log = logging.getLogger("vllm.quern")
FIELD = "quern_columns"
METHOD = "from_new_request"
NEEDED = {"tokenizer", "request"}
"""What vLLM's function must take for ours to mean what it says: as in vLLM 0.32."""
TELLING = "_update_prompt_logprobs"
"""The function of a request's log-probabilities that ours stands in for."""
OFFERED = "_tells_quern_columns"
"""The mark of a class that was changed already: vLLM may call us more than once in a process."""
COLUMNS = -1
"""No token has this id."""
LEAST = -9999.0
"""What vLLM tells for the logarithm of 0."""


def offer() -> None:
    """Have log-probabilities of this process told as columns where a request wants that."""
    try:  # only now: vLLM is not whole yet while it looks for plug-ins
        processor = importlib.import_module("vllm.v1.engine.logprobs").LogprobsProcessor
        entry = importlib.import_module("vllm.logprobs").Logprob
    except (ImportError, AttributeError):
        log.warning("Quern's plug-in does not know this vLLM: %s is not offered", FIELD)
    else:
        offer_in(processor, entry)


def offer_in(processor: type[Any], entry: Callable[..., Any]) -> None:
    """Have this class make processors that tell columns for the requests that want them.

    `entry` makes what vLLM tells of one token.
    """
    if OFFERED in vars(processor):
        return
    original = getattr(processor, METHOD, None)
    if (
        original is None
        or not NEEDED.issubset(inspect.signature(original).parameters)
        or not hasattr(processor, TELLING)
    ):
        log.warning("Quern's plug-in does not know this vLLM's log-probabilities: %s is not offered", FIELD)
        return

    def from_new_request(_: type[Any], tokenizer: Any, request: Any) -> Any:
        first = first_place(request.sampling_params)
        if first is None:
            return original(tokenizer=tokenizer, request=request)
        made = original(tokenizer=None, request=request)
        setattr(made, TELLING, Telling(made, entry, first))
        return made

    setattr(processor, METHOD, classmethod(from_new_request))
    setattr(processor, OFFERED, True)


def first_place(parameters: Any) -> int | None:
    """Return the first place that a request with these parameters wants to be told of, None if it wants no columns."""
    first = (getattr(parameters, "extra_args", None) or {}).get(FIELD)
    return first if type(first) is int and first >= 1 else None


class Telling:
    """Takes what the engine hands over of one request."""

    def __init__(self, processor: Any, entry: Callable[..., Any], first: int) -> None:
        self._processor = processor
        self._entry = entry
        self._skipped = first - 1
        """Rows that are not told any more; the first row is of the second token."""

    def __call__(self, tensors: Any) -> None:
        """Put the rows of some places, which follow those of the last call, into the processor."""
        token_ids, logprobs = (tensors[column].numpy() for column in (0, 1))
        wanted = slice(self._skipped, None)
        self._skipped = max(0, self._skipped - len(logprobs))
        text = as_text(token_ids[wanted], logprobs[wanted])
        told = self._entry(logprob=0.0, rank=logprobs.shape[1], decoded_token=text)
        self._processor.prompt_logprobs.append({COLUMNS: told})


def as_text(token_ids: Any, logprobs: Any) -> str:
    """Return two numpy tables of the same shape as they are told."""
    numbers = logprobs.astype("<f4")
    numbers[numbers == float("-inf")] = LEAST
    return base64.b64encode(token_ids.astype("<i4").tobytes() + numbers.tobytes()).decode()
