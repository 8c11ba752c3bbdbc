"""Brings prepared models on chain over one open chain port: registers, updates, or finds that all is said already.

Goal: running it again after any interruption sends nothing twice. What an earlier run left unfinished is therefore
awaited first, and only the confirmed state decides what there is to send.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from node.models.preparation import PreparedUpload
from node.models.publish import (
    PublishAction,
    changed_fields,
    fixed_differences,
    publication,
)
from node.models.reporting import Tell
from node.ports import ActionStatus, Chain
from node.protocol.actions import RegisterModel, SetModelSpec, UpdateModel
from node.protocol.identifiers import Hash32, ModelId


@dataclass(frozen=True, slots=True)
class Registration:
    """What became of one model."""

    model_id: ModelId
    version: int
    """The current version afterwards; 0 if there is none."""
    done: tuple[str, ...]
    """What was changed, in the past tense; empty if nothing was."""
    transactions: tuple[Hash32, ...]
    gas_used: int
    refusal: str
    """Why the chain refused; empty if it did not."""


async def register_models(
    chain: Chain, uploads: Sequence[PreparedUpload], unfinished: Sequence[str], tell: Tell
) -> tuple[Registration, ...]:
    """Make all uploads the current versions; a refusal of one does not stop the others.

    `unfinished` are the keys of intents that an earlier run stored and did not see the end of.
    """
    for key in unfinished:
        tell(f"Waiting for a transaction of an earlier run: {key}")
        await chain.outcome(key)
    run = secrets.token_hex(8)  # a key that failed once has no effect for ever: each run has its own
    plans = [(upload, _plan(chain, upload, tell)) for upload in uploads]
    for upload, actions in plans:  # here, in this order, so that models are registered in the manifest's
        for action in actions[:1]:
            await chain.submit(_key(run, upload, action), action)
    results: dict[ModelId, Registration] = {}

    async def follow(upload: PreparedUpload, actions: tuple[PublishAction, ...]) -> None:
        results[upload.description.model_id] = await _carry_out(chain, run, upload, actions)

    async with trio.open_nursery() as nursery:
        for upload, actions in plans:
            nursery.start_soon(follow, upload, actions)
    return tuple(results[upload.description.model_id] for upload in uploads)


def _plan(chain: Chain, upload: PreparedUpload, tell: Tell) -> tuple[PublishAction, ...]:
    description = upload.description
    known = chain.state.models.get(description.model_id)
    actions = publication(description, upload.cid, known)
    if known is not None:
        for change in changed_fields(description, known):
            tell(f"{description.model_id}: {change}")
        for name in fixed_differences(description, known):
            tell(f"{description.model_id}: its {name} stays {getattr(known, name)!r}: the registry never changes one")
    if actions:
        sent = " and ".join(_in_words(action)[0] for action in actions)
        tell(f"{description.model_id}: to {sent}; waiting for confirmation")
    else:
        tell(f"{description.model_id} has this CID and specification on chain already")
    return actions


async def _carry_out(
    chain: Chain, run: str, upload: PreparedUpload, actions: tuple[PublishAction, ...]
) -> Registration:
    """Send one action after the other; the next one only if the chain took the one before."""
    model_id = upload.description.model_id
    done: list[str] = []
    transactions: list[Hash32] = []
    gas_used, refusal = 0, ""
    for action in actions:
        key = _key(run, upload, action)
        await chain.submit(key, action)
        outcome = await chain.outcome(key)
        gas_used += outcome.gas_used
        if outcome.transaction_hash is not None:
            transactions.append(outcome.transaction_hash)
        if outcome.status is not ActionStatus.DONE:
            refusal = f"to {_in_words(action)[0]}: {outcome.reason}"
            break
        done.append(_in_words(action)[1])
    known = chain.state.models.get(model_id)
    version = 0 if known is None else known.version
    return Registration(model_id, version, tuple(done), tuple(transactions), gas_used, refusal)


def _in_words(action: PublishAction) -> tuple[str, str]:
    match action:
        case RegisterModel():
            return "register it", "registered"
        case SetModelSpec():
            return "set its specification", "specification set"
        case UpdateModel():
            return "publish a new version", "new version"


def _key(run: str, upload: PreparedUpload, action: PublishAction) -> str:
    return f"publish/{upload.description.model_id}/{type(action).__name__}/{upload.cid}/{run}"
