"""The same nonces in vLLM itself, without server or daemon; run by benchmarks.nonces in the engine's environment.

Reads lines from standard input, each a file of prompts (JSON); answers each with the seconds and the processor seconds
that it took, on a line of standard output that begins with MARK.
"""

import json
import os
import sys
import time
from pathlib import Path

MARK = "measured "


def main() -> None:
    """Serve until the end of standard input."""
    from vllm import LLM, SamplingParams  # noqa: PLC0415 - only the engine's environment has it

    options = json.loads(sys.argv[2])
    engine = LLM(model=sys.argv[1], **options)
    wanted = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0)
    print(MARK + "ready", flush=True)
    for line in sys.stdin:
        prompts = [{"prompt_token_ids": prompt} for prompt in json.loads(Path(line.strip()).read_text())]
        started, used = time.monotonic(), os.times()
        engine.generate(prompts, wanted, use_tqdm=False)
        seconds, now = time.monotonic() - started, os.times()
        print(MARK + json.dumps([seconds, now.user + now.system - used.user - used.system]), flush=True)


if __name__ == "__main__":
    main()
