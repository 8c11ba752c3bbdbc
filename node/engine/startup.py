"""How far a vLLM server has come with its start, from the end of its log."""

PHASES = (
    ("Application startup complete", "waiting for its first token"),
    ("Starting vLLM", "opening its door"),
    ("init engine (profile", "almost done"),
    ("Graph capturing finished", "almost done"),
    ("Capturing CUDA graphs", "capturing CUDA graphs"),
    ("KV cache size", "making the key-value cache"),
    ("torch.compile", "compiling"),
    ("Loading weights took", "weights are loaded; measuring memory"),
    ("Loading safetensors", "loading weights"),
    ("Starting to load model", "loading weights"),
    ("Initializing a V1 LLM engine", "starting processes"),
    ("vLLM API server version", "starting"),
)
"""What a line of the log says, and what that means; what comes later stands first."""
START_MARK = "--- quern starts an engine ---"
"""Written into the log before each start: what stands before it is of an earlier one."""
PHASE_FIRST = "starting Python"


def phase_of(log_text: str) -> str:
    """Return the phase that the newest start has reached of which `log_text` is the end of the log."""
    text = of_newest_start(log_text)
    last = max((text.rfind(mark), -place, phase) for place, (mark, phase) in enumerate(PHASES))
    return PHASE_FIRST if last[0] < 0 else last[2]


def of_newest_start(log_text: str) -> str:
    """Return the part of a log that is of the newest start."""
    return log_text.rpartition(START_MARK)[2]
