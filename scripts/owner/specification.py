"""Options for a model's specification, and the specification that they make."""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import click

from contracts.bindings import model_registry
from node.chain.owner_calls import (
    RefusedError,
)
from node.engine.arguments import EngineArgumentsError, merge_model_args
from node.protocol.actions import ZERO_ADDRESS
from scripts.owner.options import ACCOUNT

Spec = model_registry.ModelSpec
PLAIN_SPEC = Spec("", "", (), "", "", 0, 1, 1, 2048, 0, gated=False, encrypted=False, proposer=ZERO_ADDRESS)
"""What the registry gives a model that is registered without a specification."""


def spec_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option per field of a model's specification; those not given are None."""
    for option in reversed(
        [
            click.option("--hf-repo", help="Repository on the Hugging Face Hub it comes from."),
            click.option("--hf-commit", help="Full commit hash there."),
            click.option("--model-args", help='vLLM arguments every node uses, e.g. "--dtype bfloat16".'),
            click.option("--quantization", help="Of the weights, as engines name it; empty for none."),
            click.option("--kv-cache-quantization", help="Of the key-value cache; empty for the weights' type."),
            click.option("--vram-mib", type=click.IntRange(0, 2**32 - 1), help="GPU memory it needs."),
            click.option("--throughput-per-nonce", type=click.IntRange(1, 2**64 - 1), help="Tokens per epoch."),
            click.option("--units-of-compute-per-token", type=click.IntRange(1, 2**64 - 1), help="Price, in units."),
            click.option("--context-length", type=click.IntRange(1, 2**32 - 1), help="Tokens, prompt and answer."),
            click.option("--poc-distance-max", type=click.IntRange(0, 2**64 - 1), help="See docs/protocol.md."),
            click.option("--gated/--open", default=None, help="Access by the AccessVault's gate only."),
            click.option("--encrypted/--plain", default=None, help="The files behind the CID are encrypted."),
            click.option("--proposer", type=ACCOUNT, help="Sets the gate, is paid for access."),
        ]
    ):
        command = option(command)
    return command


def changed_spec(spec: Spec, given: Mapping[str, Any]) -> Spec:
    """Return a specification with what was given in place of what it says."""
    values = {name: value for name, value in given.items() if value is not None}
    if "model_args" in values:
        values["model_args"] = tuple(shlex.split(values["model_args"]))
        try:
            merge_model_args(values["model_args"], ())
        except EngineArgumentsError as error:
            raise RefusedError(str(error)) from error
    return replace(spec, **values)
