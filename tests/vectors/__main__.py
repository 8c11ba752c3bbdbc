"""Writes all vectors anew: `python -m tests.vectors`, after the rules were changed on purpose. Look at what changed."""

import runpy

MODULES = (
    "shared",
    "rules",
    "rewards",
    "evidence",
    "formation",
    "sampling",
    "encryption",
    "open_prompts",
    "three_epochs",
)

if __name__ == "__main__":
    for name in MODULES:
        runpy.run_module(f"tests.vectors.{name}", run_name="__main__")
