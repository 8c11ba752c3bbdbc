"""What an auditor's engine says of the answers in a file of claims: a process of vLLM, without its server."""

import json
import os
import subprocess
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.soundness import offline_prefills
from benchmarks.soundness.claims import ANSWER_TOKENS
from benchmarks.soundness.engines import CONTEXT_TOKENS
from benchmarks.soundness.judging import CANDIDATES, Reading
from benchmarks.soundness.variants import EngineVariant
from node.engine.arguments import CPU_BATCHED_TOKENS_MIN, server_environment
from node.ml_nodes import default_engine_python
from node.protocol.draws import Prefill

LISTED = CANDIDATES + 2
NUMBER_BYTES = 4
LOG = "engine.log"
LOG_CHARACTERS = 3000


class Reader:
    """A running engine that reads answers."""

    def __init__(self, process: subprocess.Popen[str], directory: Path) -> None:
        self._process = process
        self._directory = directory
        self._until_written()

    def read(self, files: Sequence[Path]) -> Iterator[list[list[Reading]]]:
        """Yield, for each file of claims, what the engine says of each answer; it reads the next one meanwhile."""
        outputs = [self._directory / f"{number}.bin" for number in range(len(files))]
        for file, output in zip(files, outputs, strict=True):
            self._write(json.dumps([str(file), str(output)]) + "\n")
        for output in outputs:
            self._until_written()
            yield list(_readings(output.read_bytes()))
            output.unlink()

    def _write(self, line: str) -> None:
        stream = self._process.stdin
        if stream is None:
            raise RuntimeError("the engine has no input")
        stream.write(line)
        stream.flush()

    def _until_written(self) -> None:
        for line in self._process.stdout or ():
            if line.strip() == offline_prefills.MARK:
                return
        raise RuntimeError(f"the engine ended: {(self._directory / LOG).read_text()[-LOG_CHARACTERS:]}")


@contextmanager
def open_reader(variant: EngineVariant, models: Path) -> Iterator[Reader]:
    """Yield a reader by one engine; nothing of it is left afterwards."""
    options: dict[str, object] = {
        "model": str(models / variant.model),
        "max_model_len": CONTEXT_TOKENS,
        "enforce_eager": True,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": CPU_BATCHED_TOKENS_MIN,
    }
    words = iter(variant.arguments)
    options |= {name.removeprefix("--").replace("-", "_"): value for name, value in zip(words, words, strict=True)}
    environment = os.environ | server_environment(on_cpu=True, kv_cache_gib=1) | dict(variant.environment)
    command = (str(default_engine_python()), offline_prefills.__file__, json.dumps(options), str(CANDIDATES))
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with (directory / LOG).open("w") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
            )
            try:
                yield Reader(process, directory)
            finally:
                process.kill()
                process.wait()


def _readings(data: bytes) -> Iterator[list[Reading]]:
    numbers = ANSWER_TOKENS * LISTED
    size = numbers * NUMBER_BYTES
    for start in range(0, len(data), 2 * size):
        ids, logprobs = array("I", data[start : start + size]), array("f", data[start + size : start + 2 * size])
        yield [
            _reading(ids[place : place + LISTED], logprobs[place : place + LISTED])
            for place in range(0, numbers, LISTED)
        ]


def _reading(ids: Sequence[int], logprobs: Sequence[float]) -> Reading:
    known = dict(zip(ids[:-1], logprobs[:-1], strict=True))
    return Reading(Prefill(known, CANDIDATES), ids[-1], logprobs[-1])
