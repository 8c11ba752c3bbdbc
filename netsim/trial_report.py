"""What a trial shows, in lines for people."""

from collections import Counter
from collections.abc import Iterator

from netsim.adversaries import STRATEGIES
from netsim.trial import Outcome
from netsim.trial_findings import EpochFindings, Findings, names

NAMED_MAX = 8
"""Nodes or failures that are named in one place."""


def report_lines(outcome: Outcome, findings: Findings, *, hashes: bool = False) -> Iterator[str]:
    """Yield the report. With `hashes`, also what every honest node computed in every epoch."""
    trial = outcome.trial
    counted = Counter(participant.strategy for participant in outcome.participants)
    fates = Counter(one.attendance.fate.value for one in outcome.participants if one.is_honest)
    yield f"population {trial.population.name}, seed {trial.seed}: " + ", ".join(
        f"{count} {name}" for name, count in counted.items()
    )
    yield "honest nodes: " + ", ".join(f"{count} {fate}" for fate, count in sorted(fates.items()))
    for epoch in findings.epochs:
        yield from _epoch_lines(outcome, epoch)
        if hashes:
            yield from _hash_lines(outcome, epoch)
    yield "found:"
    for entry in findings.found:
        codes = ", ".join(entry.reasons)
        yield f"  {entry.participant.strategy} (node {entry.participant.plan.number}): epoch {entry.epoch}, {codes}"
    unfound = Counter(participant.strategy for participant in findings.unfound)
    yield "not found:"
    for name, count in sorted(unfound.items()):
        strategy = STRATEGIES[name]
        yield f"  {name}: {count}{'' if strategy.reasons else f' ({strategy.unfound})'}"
    if findings.slandered:
        yield f"honest validators that a cartel took the points for voting from: {findings.slandered} times"
    yield f"{outcome.answers} answers, {outcome.failed_answers} that failed; {outcome.minted} minted"
    yield f"trace {outcome.trace_hash}"
    for failure in findings.failures[:NAMED_MAX]:
        yield f"FAILED: {failure}"
    if len(findings.failures) > NAMED_MAX:
        yield f"FAILED: {len(findings.failures) - NAMED_MAX} more"
    if not findings.failures:
        yield "every promise held"


def _epoch_lines(outcome: Outcome, epoch: EpochFindings) -> Iterator[str]:
    traffic, nodes = outcome.traffic[epoch.epoch], outcome.trial.nodes
    agreement = "identical on all" if not epoch.differing else f"NOT on nodes {names(epoch.differing[:NAMED_MAX])}"
    yield (
        f"epoch {epoch.epoch}: result {epoch.digest[:16] or 'NONE'} {agreement} of {epoch.agreeing} honest nodes "
        f"({epoch.away} away); paid {epoch.paid} honest and {epoch.cheats_paid} cheats; next group {epoch.group}"
        + (f"; cartel {epoch.cartel_per_mille / 10:.1f} %" if epoch.cartel_per_mille else "")
    )
    yield (
        f"  {traffic.messages / nodes:.1f} messages, {traffic.gossip_bytes / nodes:.0f} bytes of gossip and "
        f"{traffic.fetched_bytes / nodes:.0f} of content per node; "
        f"{traffic.seconds:.1f} s, {traffic.processor_seconds:.1f} s of them of the processor"
    )
    lost = Counter(
        (participant.attendance.fate.value, ", ".join(part.reason for part in told.parts) or "not there")
        for participant, told in epoch.paid_less
    )
    for (fate, reasons), count in sorted(lost.items()):
        yield f"  {count} honest paid less ({fate}): {reasons}"


def _hash_lines(outcome: Outcome, epoch: EpochFindings) -> Iterator[str]:
    for participant in outcome.participants:
        if participant.is_honest:
            formed = outcome.formed[participant.account].get(epoch.epoch)
            yield f"  node {participant.plan.number}: {formed.digest.hex() if formed else 'none'}"
