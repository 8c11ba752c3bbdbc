"""A directory that looks like a model to the content layer: large files whose every block differs, made quickly."""

import hashlib
from pathlib import Path

MIB = 1024 * 1024


def make_model(directory: Path, mebibytes: int, *, files: int = 2) -> None:
    """Fill `directory` with `files` weight files of so many mebibytes together, the same in every run, and a config."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text('{"model_type": "generated"}\n')
    pattern = hashlib.shake_256(b"quern benchmark").digest(MIB)
    number = 0
    for index in range(files):
        count = mebibytes // files + (index < mebibytes % files)
        with (directory / f"model-{index + 1:05}-of-{files:05}.safetensors").open("wb") as file:
            for _ in range(count):
                file.write(number.to_bytes(8, "little") + pattern[8:])
                number += 1
