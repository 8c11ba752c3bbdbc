"""Work that every node would do by itself and with the same outcome is done once in a simulation, and handed to all.

*Purpose.* Two hundred nodes read the same message, check the same bundle and form the same result. A run of one process
would do each of these two hundred times. *Detail.* `shared_work` puts in place of some pure functions others that
remember what came of which arguments, wherever node and netsim know them by name. Arguments are told apart by their
exact bytes or values, and what is large and never changed by identity (the entry keeps it alive, so that no other
object can take its place). A node whose arguments differ computes its own outcome. Errors are remembered like results.

*Invariant.* A run with shared work and one without give the same trace; tests/netsim/test_shared_work.py holds it.
"""

import functools
import sys
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import trio

from netsim import engine, slander
from node.protocol import (
    audit_evidence,
    audit_sampling,
    audits,
    bundle_reading,
    codec,
    hosts,
    messages,
    nonces,
    results,
    signatures,
    tails,
    timeslots,
)
from node.protocol.chain_state import ChainState
from node.protocol.draws import Prefill
from node.protocol.identifiers import Address, EpochNumber, Hash32
from node.protocol.judges import Judges
from node.protocol.records import EpochParameters, EpochResult, VoteBundle
from node.protocol.slices import Slices
from node.protocol.validation import SampleRule
from node.protocol.weights import NodeKey
from node.services import epochs, judging, validating, vote_checking, vote_evidence

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

MESSAGES_KEPT = 8192
"""A message is unsealed by all within a second of its arrival at the first; 200 nodes send a few thousand meanwhile."""
RECORDS_KEPT = 1024
"""Bundles, and the evidence behind them, of the newest epochs."""
EVIDENCE_KEPT = 256
"""Looked into by all who were drawn to check a validator, at about the same time. Of 200 nodes with samples of 64 the
evidence of each takes a megabyte in memory."""
DRAWS_KEPT = 8192
"""A few hundred bytes each."""
NONCES_KEPT = 65_536
"""Of each of 200 batches 64 sampled nonces on four kinds of hardware, at some 2 kB, or all nonces of 1,000 batches."""
READ_KEPT = 512
"""Answers, each on four kinds of hardware, at 40 kB for each: those that everybody reads at about the same time."""
PLACES_KEPT = 40 * READ_KEPT
"""Of their tokens."""
FIGURES_KEPT = 8192
"""A few hundred bytes each."""
EPOCHS_KEPT = 8
"""Of what there is once in an epoch, or a few times while bundles arrive one by one."""


class _Same:
    """Stands for an object in a key: equal only to itself. Keeps it alive."""

    __slots__ = ("what",)

    def __init__(self, what: object) -> None:
        self.what = what

    def __hash__(self) -> int:
        return id(self.what)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.what is other.what


def remembering(
    function: Callable[Parameters, Result], key: Callable[..., Hashable], *, entries_max: int
) -> Callable[Parameters, Result]:
    """Return `function` with a memory of its newest `entries_max` outcomes; `key` says what an outcome follows from.

    A ValueError is an outcome: it is raised anew each time. Others are not remembered.
    """
    known: OrderedDict[Hashable, tuple[Result] | ValueError] = OrderedDict()

    @functools.wraps(function)
    def remembered(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        asked = key(*args, **kwargs)
        outcome = known.get(asked)
        if outcome is None:
            try:
                outcome = (function(*args, **kwargs),)
            except ValueError as error:
                outcome = error
            known[asked] = outcome
            if len(known) > entries_max:
                known.popitem(last=False)
        if isinstance(outcome, ValueError):
            raise type(outcome)(*outcome.args) from outcome.__cause__
        return outcome[0]

    return remembered


def remembering_slices(
    function: Callable[Parameters, Slices[Result]], key: Callable[..., Hashable], *, entries_max: int
) -> Callable[Parameters, Slices[Result]]:
    """As `remembering`, for a computation in slices: it is done in the first one, and the others are empty.

    There are as many as without, so that tasks take their turns as they would.
    """

    def all_at_once(*args: Parameters.args, **kwargs: Parameters.kwargs) -> tuple[Result, int]:
        computation, slices = function(*args, **kwargs), 0
        while True:
            try:
                next(computation)
            except StopIteration as end:
                result: Result = end.value
                return result, slices
            slices += 1

    remembered = remembering(all_at_once, key, entries_max=entries_max)

    @functools.wraps(function)
    def replayed(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Slices[Result]:
        result, slices = remembered(*args, **kwargs)
        for _ in range(slices):
            yield
        return result

    return replayed


def interning(
    function: Callable[Parameters, Awaitable[Result]], *, entries_max: int
) -> Callable[Parameters, Awaitable[Result]]:
    """Return `function` so that equal results are one object: what is found out about one holds for all."""
    known: list[Result] = []

    @functools.wraps(function)
    async def interned(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        result = await function(*args, **kwargs)
        for other in reversed(known):
            if other == result:
                return other
        known.append(result)
        del known[:-entries_max]
        return result

    return interned


Functions = dict[Callable[..., object], Callable[..., object]]


def _functions() -> Functions:
    """Return what stands in for which function, with empty memories."""
    root_of = remembering(_root_of, lambda data: data, entries_max=RECORDS_KEPT)

    async def paced_root_of(data: bytes) -> Hash32:
        """As validating.root_of, with as many checkpoints."""
        for _ in range(0, len(data), nonces.VECTOR_BYTES * validating.HASHED_AT_ONCE):
            await trio.lowlevel.checkpoint()
        return root_of(data)

    return {
        validating.root_of: paced_root_of,
        messages.unseal: remembering(
            messages.unseal, lambda network_id, topic, data: (network_id, topic, data), entries_max=MESSAGES_KEPT
        ),
        hosts.is_host: remembering(hosts.is_host, lambda host: host, entries_max=MESSAGES_KEPT),
        signatures.recover: remembering(
            signatures.recover, lambda digest, signature: (digest, signature), entries_max=MESSAGES_KEPT
        ),
        codec.from_bytes: remembering(
            codec.from_bytes, lambda record_type, data: (record_type, data), entries_max=RECORDS_KEPT
        ),
        engine.block_logprobs: remembering(engine.block_logprobs, lambda *what: what, entries_max=NONCES_KEPT),
        engine.prefills_of: remembering(engine.prefills_of, lambda *what: what, entries_max=READ_KEPT),
        slander.slandered: remembering(
            slander.slandered, lambda one, vocabulary_size: (_Same(one), vocabulary_size), entries_max=PLACES_KEPT
        ),
        audits.answer_figures: remembering(audits.answer_figures, _key_of_figures, entries_max=FIGURES_KEPT),
        audits.judge_figures: remembering(
            audits.judge_figures, lambda figures, band: (figures, band), entries_max=FIGURES_KEPT
        ),
        audit_evidence.what_is_wrong: remembering(
            audit_evidence.what_is_wrong,
            lambda evidence, executor, digest, booked, *, is_accused=False: (
                _Same(evidence),
                executor,
                digest,
                booked,
                is_accused,
            ),
            entries_max=RECORDS_KEPT,
        ),
        nonces.quantise: remembering(nonces.quantise, tuple, entries_max=NONCES_KEPT),
        nonces.squared_distance: remembering(nonces.squared_distance, lambda *what: what, entries_max=NONCES_KEPT),
        nonces.nonce_prompt: remembering(nonces.nonce_prompt, lambda *what: what, entries_max=NONCES_KEPT),
        nonces.draw_sample: remembering(nonces.draw_sample, lambda *what: what, entries_max=DRAWS_KEPT),
        tails.checkers_of: remembering(
            tails.checkers_of,
            lambda seed, validator, members: (seed, validator, tuple(members)),
            entries_max=DRAWS_KEPT,
        ),
        judging.judging_of: interning(judging.judging_of, entries_max=EPOCHS_KEPT),
        judging.Judging.check: remembering(
            judging.Judging.check,
            lambda rules, bundle, validator: (_Same(rules), _Same(bundle), validator),
            entries_max=RECORDS_KEPT,
        ),
        bundle_reading.read_bundle_in_slices: remembering_slices(
            bundle_reading.read_bundle_in_slices, lambda data, limits: (data, limits), entries_max=RECORDS_KEPT
        ),
        vote_evidence.read_evidence: remembering_slices(
            vote_evidence.read_evidence,
            lambda data, bundle, rules: (data, _Same(bundle), _Same(rules)),
            entries_max=EVIDENCE_KEPT,
        ),
        vote_checking.drawn_tails: remembering(
            vote_checking.drawn_tails,
            lambda bundle, rules, seed, model_id: (_Same(bundle), _Same(rules), seed, model_id),
            entries_max=RECORDS_KEPT,
        ),
        audit_sampling.AuditorLots.seats: remembering(
            audit_sampling.AuditorLots.seats,
            lambda lots, executor, draw: (lots.seed, _Same(lots.group), executor, draw),
            entries_max=DRAWS_KEPT,
        ),
        results.form_epoch_result_in_slices: remembering_slices(
            results.form_epoch_result_in_slices, _key_of_forming, entries_max=EPOCHS_KEPT
        ),
        results.summarise: remembering(
            results.summarise, lambda result, content_cid: (_Same(result), content_cid), entries_max=EPOCHS_KEPT
        ),
        epochs.result_to_bytes: remembering(epochs.result_to_bytes, _Same, entries_max=EPOCHS_KEPT),
        epochs.result_from_bytes: remembering(
            epochs.result_from_bytes, lambda data, summary: (data, summary), entries_max=EPOCHS_KEPT
        ),
        timeslots.select_poc_slots: remembering(
            timeslots.select_poc_slots,
            lambda group, outcomes, state, seed: (group.epoch, _Same(outcomes), _Same(state), seed),
            entries_max=EPOCHS_KEPT,
        ),
    }


def _root_of(data: bytes) -> Hash32:
    root = nonces.VectorsRoot()
    for start in range(0, len(data), nonces.VECTOR_BYTES):
        root.add(data[start : start + nonces.VECTOR_BYTES])
    return root.root()


def _key_of_figures(
    prompt_length: int, token_ids: Sequence[int], prefills: Sequence[Prefill], *others: Hashable
) -> Hashable:
    """No two prefills have places in common, so that the first one tells them apart."""
    return prompt_length, tuple(token_ids), len(prefills), tuple(map(_Same, prefills[:1])), others


def _key_of_forming(
    epoch: EpochNumber,
    state: ChainState,
    parameters: EpochParameters,
    bundles: Mapping[Address, VoteBundle],
    previous: EpochResult | None,
    *,
    rules: Mapping[NodeKey, SampleRule] | None = None,
    judges: Judges | None = None,
    audit_state: ChainState | None = None,
    **drawn: Hashable,
) -> Hashable:
    """States of the past are folded once for all nodes and bundles parsed once, so that identity tells them apart."""
    counted = tuple((validator, _Same(bundle)) for validator, bundle in bundles.items())
    parts = (_Same(part) for part in (state, previous, rules, judges, audit_state))
    return epoch, parameters, counted, *parts, tuple(sorted(drawn.items()))


@contextmanager
def shared_work() -> Iterator[None]:
    """Share work within: not twice at the same time, for it changes modules."""
    functions = {id(function): stand_in for function, stand_in in _functions().items()}
    replaced: list[tuple[object, str, object]] = []
    for holder in _holders():
        for name, known in list(vars(holder).items()):
            stand_in = functions.get(id(known))
            if stand_in is not None:
                replaced.append((holder, name, known))
                setattr(holder, name, stand_in)
    try:
        yield
    finally:
        for holder, name, known in replaced:
            setattr(holder, name, known)


def _holders() -> list[object]:
    """Everything that knows a replaced function by a name."""
    modules = [module for name, module in sys.modules.items() if name.partition(".")[0] in ("node", "netsim")]
    classes = [judging.Judging, audit_sampling.AuditorLots]
    return [*(module for module in modules if module.__name__ != __name__), *classes]
