"""What an auditor's engine says of answers, read in vLLM itself; run by readings.py in the engine's environment.

A server says the same in JSON, with texts of all candidates, and takes ten times as long. Arguments: vLLM's own, as
JSON, and how many of the likeliest tokens are told. Reads lines from standard input, each two file names (JSON): claims
and where to write; answers each with MARK once it is written: for each place of each answer LISTED token ids, then
their log-probabilities: the likeliest, the claimed token, and the rule's choice among all tokens.
"""

import json
import sys
from pathlib import Path
from typing import Any

MARK = "written"


def main() -> None:
    """Serve until the end of standard input."""
    import numpy  # noqa: PLC0415 - only the engine's environment has these
    from quern_draws import Chooser, Draw, DrawTable  # noqa: PLC0415 - the plug-in's
    from vllm import LLM, SamplingParams  # noqa: PLC0415
    from vllm.v1.sample.sampler import Sampler  # noqa: PLC0415

    options, likeliest = json.loads(sys.argv[1]), int(sys.argv[2])
    engine = LLM(**options)
    seen: list[Any] = []
    gather = Sampler.gather_logprobs

    def overheard(logprobs: Any, count: int, token_ids: Any) -> Any:
        seen.append(logprobs)
        return gather(logprobs, count, token_ids)

    Sampler.gather_logprobs = staticmethod(overheard)
    chooser, wanted = Chooser(), SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False)

    def read(claim: dict[str, Any]) -> tuple[Any, Any]:
        prompt, tokens = claim["prompt"], claim["tokens"]
        seen.clear()
        engine.generate([{"prompt_token_ids": [*prompt, *tokens]}], wanted, use_tqdm=False)
        (whole,) = seen  # one request at a time, and no prefill is split
        logprobs = whole[len(prompt) - 1 :].float()
        table = DrawTable([Draw(claim["seed"], 1000, 0, 1000, 0)] * len(tokens))
        positions = numpy.arange(len(prompt) - 1, len(prompt) - 1 + len(tokens))
        winners = chooser.choose(logprobs.numpy(), table, positions)
        top = logprobs.topk(likeliest, dim=-1).indices.numpy()
        ids = numpy.column_stack((top, numpy.array(tokens), winners))
        return ids, numpy.take_along_axis(logprobs.numpy(), ids, axis=1)

    print(MARK, flush=True)
    for line in sys.stdin:
        claims, output = json.loads(line)
        with Path(output).open("wb") as file:
            for claim in json.loads(Path(claims).read_text()):
                ids, logprobs = read(claim)
                file.write(ids.astype("<u4").tobytes() + logprobs.astype("<f4").tobytes())
        print(MARK, flush=True)


if __name__ == "__main__":
    main()
