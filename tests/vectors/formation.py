"""A vector of results that are formed: `python -m tests.vectors.formation` writes formation.json anew.

From a chain's events and the bundles that members committed to the bytes of four results running, the last of which has
something in every field. A changed line in formation.json is a changed protocol: nodes of both versions would disagree.
What happens in these epochs is in story.py.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from node.protocol import events as chain_events
from node.protocol.audit_sampling import AuditSeeds
from node.protocol.bundles import check_bundle
from node.protocol.codec import from_bytes, from_value, to_bytes, to_value
from node.protocol.eip712 import epoch_result_digest
from node.protocol.events import EpochResultPosted, GroupStored
from node.protocol.findings import NodeFate
from node.protocol.identifiers import Address, EpochNumber, Hash32
from node.protocol.judges import judges_for
from node.protocol.records import EpochParameters, EpochResult, VoteBundle
from node.protocol.results import form_epoch_result, summarise
from node.protocol.stages import Stage
from node.protocol.tails import checkers_of
from node.protocol.timeslots import select_poc_slots
from node.protocol.validation import judged_models, rules_of
from node.protocol.weights import NodeKey
from tests.builders import SOME_CID, account
from tests.vectors.story import LAST, PARAMETERS_OF_STORY, Chain, Scene, begin_of, commit_bundles, fold, found, mine

PATH = Path(__file__).with_name("formation.json")
SALTS_MAX = 400
SALT_FOUND = 129
"""Tried first, for a search takes half a minute; write down here what one finds."""
CHAIN_ID = 31337
MANAGER = account(99)
NEXT_PARAMETERS = replace(PARAMETERS_OF_STORY, generate_offset=15)
"""Of the epoch after the last."""


@dataclass(frozen=True, slots=True)
class Formed:
    """One epoch of the vector."""

    bundles: Mapping[Address, VoteBundle]
    selected: frozenset[NodeKey]
    result: EpochResult
    digest: Hash32


def compute() -> dict[str, object]:
    """Return the vector, as it stands in formation.json."""
    chain, epochs = tell()
    return {
        "chainId": CHAIN_ID,
        "epochManager": MANAGER,
        "contentCid": SOME_CID,
        "parameters": _json(to_value(PARAMETERS_OF_STORY)),
        "parametersAfter": _json(to_value(NEXT_PARAMETERS)),
        "blockHashes": f"SHA-256 of the text block/{chain.salt}/<number>",
        "salt": chain.salt,
        "events": [
            {"block": event.block_number, "type": type(event.body).__name__, "bytes": to_bytes(event.body).hex()}
            for event in chain.events
        ],
        "epochs": [
            {
                "bundles": {validator: to_bytes(bundle).hex() for validator, bundle in epoch.bundles.items()},
                "selected": sorted(map(list, epoch.selected)),
                "sha256": hashlib.sha256(to_bytes(epoch.result)).hexdigest(),
                "digest": epoch.digest.hex(),
            }
            for epoch in epochs
        ],
        "last": _json(to_value(epochs[-1].result)),
        "lastBytes": to_bytes(epochs[-1].result).hex(),
    }


def tell() -> tuple[Chain, list[Formed]]:
    """Tell the story with a salt that leaves nothing out of the last result."""
    nearest: list[str] | None = None
    for salt in (SALT_FOUND, *range(SALTS_MAX)):
        chain = Chain(salt)
        epochs = _tell(chain)
        if not epochs:
            continue
        missing = lacking(epochs[-1].result, epochs[-2].result)
        if not missing:
            return chain, epochs
        nearest = missing if nearest is None or len(missing) < len(nearest) else nearest
    raise ValueError(f"with none of {SALTS_MAX} salts is everything in the last result; change story.py: {nearest}")


def lacking(result: EpochResult, previous: EpochResult) -> list[str]:
    """Return what the vector is to have and this result, the one after `previous`, has not."""
    audits = result.audits
    had = {
        (member.participant, node.node_id): node.poc_weight
        for member in previous.group.members
        for node in member.ml_nodes
    }
    wanted = {
        **{name: bool(getattr(result, name)) for name in EpochResult.__dataclass_fields__},
        "calibrations": bool(result.group.calibrations),
        "real throughput": any(sum(entry.real_throughput_vector) for entry in result.group.throughputs),
        "due books": any(book.due_before for book in result.books_missing),
        "evidence": any(audit.evidence for audit in audits),
        "confirmed": any(audit.confirmed for audit in audits),
        "accused": any(audit.accused for audit in audits),
        "challenged": any(audit.challenged for audit in audits),
        "coverage": {share.covers_models for share in result.settled} == {True, False},
        "histories of several epochs": any(len(history.epochs) > 1 for history in result.histories),
        "scaled": any(
            node.fate is NodeFate.PRESERVED and 0 < node.weight < had[node.participant, node.node_id]
            for node in result.nodes
        ),
    }
    wanted |= {f"fate {fate}": fate in {node.fate.value for node in result.nodes} for fate in FATES}
    wanted |= {f"node {code}": code in {node.reason for node in result.nodes} for code in NODE_CODES}
    wanted |= {f"audit {code}": code in {audit.reason for audit in audits} for code in AUDIT_CODES}
    wanted |= {f"penalty {code}": code in {found.reason for found in result.penalties} for code in PENALTY_CODES}
    wanted |= {f"validator {code}": code in {found.reason for found in result.validators} for code in VALIDATOR_CODES}
    lost = {
        loss.reason
        for score in result.scores
        for part in (score.quality, score.speed, score.availability, score.participation)
        for loss in part.losses
    }
    wanted |= {f"score {code}": code in lost for code in SCORE_CODES}
    return [name for name, is_there in wanted.items() if not is_there]


FATES = ("accepted", "rejected", "undecided", "preserved")
NODE_CODES = (
    "cumulated-mismatches",
    "mismatches",
    "nonces-differ",
    "few-judges",
    "not-counted",
    "file-withheld",
    "narrowly-rejected",
)
AUDIT_CODES = ("margin", "accused", "withheld", "omitted-receipt", "no-book")
PENALTY_CODES = ("batch-of-fakes", "absent", "audit-margin")
VALIDATOR_CODES = ("not-computed", "nobody-could-check")
SCORE_CODES = (
    "audit-failed",
    "batch-rejected",
    "slow",
    "absent",
    "no-batch",
    "withheld",
    "no-votes",
    "unjudged",
    "unaudited",
    "not-computed",
)


def replay(vector: Mapping[str, Any]) -> list[EpochResult]:
    """Form the results from what the vector alone says."""
    parameters = from_value(EpochParameters, vector["parameters"])
    after = from_value(EpochParameters, vector["parametersAfter"])
    chain = Chain(vector["salt"])
    for event in vector["events"]:
        chain.add(event["block"], from_bytes(getattr(chain_events, event["type"]), bytes.fromhex(event["bytes"])))
    results: list[EpochResult] = []
    for number, told in enumerate(vector["epochs"]):
        epoch = EpochNumber(number)
        bundles = {
            validator: from_bytes(VoteBundle, bytes.fromhex(data)) for validator, data in told["bundles"].items()
        }
        selected = frozenset((participant, node_id) for participant, node_id in told["selected"])
        previous = results[-1] if results else None
        result = _form(chain, epoch, bundles, previous, selected, parameters, after if epoch == LAST else parameters)
        assert result is not None
        results.append(result)
    return results


def _tell(chain: Chain) -> list[Formed]:
    found(chain)
    epochs: list[Formed] = []
    for number in range(LAST + 1):
        epoch = EpochNumber(number)
        previous = epochs[-1].result if epochs else None
        before = chain.state_at(begin_of(epoch, Stage.GENERATE) - 1)
        selected = frozenset[NodeKey]()
        if previous is not None:
            seed = chain.block_hash(begin_of(epoch, Stage.GENERATE) - 1)
            selected = select_poc_slots(replace(previous.group, epoch=epoch), previous.nodes, before, seed)
        mine(chain, epoch, selected)
        commits = chain.state_at(begin_of(epoch, Stage.FORM) - 1).poc_commits[epoch]
        rules = rules_of(commits, before, PARAMETERS_OF_STORY, previous.group if previous else None)
        bundles = Scene(chain, epoch, previous, rules, selected).bundles()
        _check(chain, epoch, bundles, previous)
        commit_bundles(chain, epoch, bundles)
        after = NEXT_PARAMETERS if epoch == LAST else PARAMETERS_OF_STORY
        result = _form(chain, epoch, bundles, previous, selected, PARAMETERS_OF_STORY, after)
        if result is None:
            return []
        summary, _ = summarise(result, SOME_CID)
        weights = tuple((member.participant, member.weight) for member in result.group.members)
        posted = GroupStored(summary.validator_set_hash, weights), EpochResultPosted(summary, account(1))
        chain.add(begin_of(epoch, Stage.FORM) + 2, *posted)
        epochs.append(Formed(bundles, selected, result, epoch_result_digest(summary, CHAIN_ID, MANAGER)))
    return epochs


def _check(
    chain: Chain, epoch: EpochNumber, bundles: Mapping[Address, VoteBundle], previous: EpochResult | None
) -> None:
    """Every bundle is one that its validator may commit."""
    state = chain.state_at(begin_of(epoch, Stage.FORM) - 1)
    before = chain.state_at(begin_of(epoch, Stage.GENERATE) - 1)
    commits, weights = state.poc_commits[epoch], dict(state.group_weights(epoch))
    voted_before = frozenset(state.vote_bundles.get(EpochNumber(epoch - 1), {}) if epoch else {})
    seed = chain.block_hash(begin_of(epoch - 1, Stage.FORM)) if epoch else chain.block_hash(0)
    frozen = previous.group if previous else None
    judges = judges_for(epoch, weights, before, frozen)
    for validator, bundle in bundles.items():
        check_bundle(
            bundle,
            epoch,
            validator,
            commits,
            rules_of(commits, before, PARAMETERS_OF_STORY, frozen),
            sample_seed=chain.block_hash(begin_of(epoch, Stage.VALIDATE)),
            checkers=lambda checked, model_id: checkers_of(
                seed, checked, judges.able_to_check(checked, model_id, weights)
            ),
            checked=voted_before,
        )


def _form(
    chain: Chain,
    epoch: EpochNumber,
    bundles: Mapping[Address, VoteBundle],
    previous: EpochResult | None,
    selected: frozenset[NodeKey],
    parameters: EpochParameters,
    after: EpochParameters,
) -> EpochResult | None:
    state = fold(chain.events, begin_of(epoch, Stage.FORM) - 1)
    before = fold(chain.events, begin_of(epoch, Stage.GENERATE) - 1)
    frozen = None if previous is None else previous.group
    seeds = None
    if previous is not None:
        seeds = AuditSeeds(
            chain.block_hash(begin_of(previous.epoch, Stage.FORM)), chain.block_hash(begin_of(epoch, Stage.FORM))
        )
    return form_epoch_result(
        epoch,
        state,
        parameters,
        bundles,
        previous,
        rules=rules_of(state.poc_commits[epoch], before, parameters, frozen),
        models=judged_models(before, frozen),
        audit_seeds=seeds,
        audit_state=fold(chain.events, begin_of(epoch, Stage.SERVE)),
        selected=selected,
        next_parameters=after,
    )


def _json(value: object) -> object:
    """Return a canonical value as JSON can hold it: bytes as hex."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(name): _json(item) for name, item in value.items()}
    return [_json(item) for item in value] if isinstance(value, list | tuple) else value


if __name__ == "__main__":
    PATH.write_text(json.dumps(compute(), indent=1) + "\n")
