"""Commands about Proof of Compute: what became of batches, and why two nodes formed different results."""

from pathlib import Path

import click

from node.cli.calls import CALL_SECONDS_MAX, call_daemon
from node.cli.options import Target, target_options
from node.cli.render import print_facts, print_json, print_table
from node.control.poc_views import BatchEvidenceView, ObjectionView, PocView, WhyDifferView

RECOMPUTE_SECONDS_MAX = 660
"""Longer than the daemon tries."""
COMMITTED = "committed"
"""A batch that nothing is decided of yet."""
MINING = {
    "waiting": "waiting for GENERATE",
    "refused": "the contract refused its batch",
    "nothing": "no batch, for no model that counts was loaded or no nonce was computed in time",
    "serving": "serving instead, by allotment",
}
"""What states of mining mean, where the word alone does not say it."""


@click.command()
@click.argument("epoch", type=click.IntRange(0), required=False)
@click.option("--batch", metavar="ACCOUNT/NODE", help="Only this batch: who judged it, and by what.")
@click.option("--recompute", is_flag=True, help="With --batch: judge it again, with an engine of this daemon.")
@target_options
def poc(target: Target, epoch: int | None, batch: str | None, recompute: bool) -> None:
    """Show the batches of an epoch and what became of them.

    Also who voted, and how far this node's miners are. Without EPOCH it is the present one. With --batch, what each
    judge of one batch found and the evidence of it; --recompute fetches the batch's file (126 bytes a nonce) and lets
    an engine here compute the sample, beside what users ask.

    \b
    Examples:
      quern poc
      quern poc 17
      quern poc 17 --batch 0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A/node-1 --recompute
      quern poc 17 --json | jq '.batches[] | select(.fate == "rejected")'
    """
    if batch is not None or recompute:
        _show_batch(target, epoch, batch, recompute=recompute)
        return
    view = call_daemon(target, "poc", PocView, {"epoch": epoch})
    if target.as_json:
        print_json(view)
        return
    undecided = "over, without a result" if view.why_no_result else "no result yet"
    state = "decided" if view.has_result else undecided
    mining = ", ".join(
        f"{m.node_id}: {MINING.get(m.state, m.state)}, {m.nonces} nonces (epoch {m.epoch})" for m in view.mining
    )
    facts = [("epoch", f"{view.epoch}, {state}"), ("mining here", mining or "no ML node of this daemon mines")]
    if view.objection is not None:
        facts.append(("the result", _in_words(view.objection)))
    if view.why_no_result:
        facts.append(("why no result", view.why_no_result))
    print_facts(facts)
    click.echo()
    print_table(
        ["participant", "node", "model", "nonces", "sampled", "differ", "outcome", "weight", "why"],
        [
            [
                batch.participant,
                batch.node_id,
                batch.model_id,
                str(batch.nonces),
                *(("–", "–") if batch.fate == COMMITTED else (str(batch.sampled), str(batch.mismatches))),
                batch.fate,
                "–" if batch.fate == COMMITTED else str(batch.weight),
                batch.words or batch.reason,
            ]
            for batch in view.batches
        ],
        empty="No batch was committed.",
    )
    click.echo()
    print_table(
        ["validator", "weight", "votes", "votes of the epoch before"],
        [[v.account, str(v.weight), v.bundle or "none", f"{v.fate} {v.reason}".strip()] for v in view.validators],
        empty="There is no group yet.",
    )


def _show_batch(target: Target, epoch: int | None, batch: str | None, *, recompute: bool) -> None:
    account, separator, node_id = (batch or "").partition("/")
    if epoch is None or not separator or not account or not node_id:
        raise click.UsageError("name the epoch and the batch, as in: quern poc 17 --batch ACCOUNT/NODE")
    if recompute and not target.as_json:
        click.echo("Judging the batch again; its file may have to be fetched first …", err=True)
    params = {"epoch": epoch, "participant": account, "node_id": node_id, "recompute": recompute}
    deadline = RECOMPUTE_SECONDS_MAX if recompute else CALL_SECONDS_MAX
    view = call_daemon(target, "poc_batch", BatchEvidenceView, params, deadline_seconds=deadline)
    if target.as_json:
        print_json(view)
        return
    outcome = f"{view.fate} {view.reason}".strip()
    facts = [
        ("batch", f"{view.participant}/{view.node_id}, epoch {view.epoch}, {view.nonces} nonces of {view.model_id}"),
        ("outcome", f"{outcome}: {view.words}" if view.words else outcome),
        ("vectors", view.vectors),
        ("rule", f"of {view.sample} nonces drawn, {view.rejected_from} that differ reject it"),
        ("a nonce differs", f"beyond a squared distance of {view.distance_max:,}"),
    ]
    if view.recomputed is not None:
        own = view.recomputed
        facts.append(
            (
                "here",
                f"{own.node_id}: {own.verdict}, {own.mismatches} differ, the largest distance is "
                f"{own.largest_distance:,}",
            )
        )
    print_facts(facts)
    click.echo()
    print_table(
        [
            "validator",
            "weight",
            "may judge",
            "says",
            "sampled",
            "differ",
            "unrelated",
            "largest distance",
            "why",
            "evidence",
        ],
        [
            [
                judge.account,
                str(judge.weight),
                "yes" if judge.may_judge else "no",
                judge.verdict or "–",
                str(judge.sampled) if judge.sampled else "–",
                str(judge.mismatches) if judge.sampled else "–",
                str(judge.unrelated) if judge.sampled else "–",
                "–" if judge.largest_distance is None else f"{judge.largest_distance:,}",
                judge.problem or judge.words or judge.reason,
                judge.evidence or "–",
            ]
            for judge in view.judges
        ],
        empty="Nobody committed votes.",
    )


FINDINGS = {
    "open": "not checked yet: its content, or votes that it counts, are not here",
    "sound": "follows from the evidence",
    "immaterial": "differs from what follows here, but pays nobody otherwise",
    "wrong-content": "false: its content is not what its quorum signed",
    "does-not-follow": "false: it does not follow from the votes that it counts",
    "votes-left-out": "false: it leaves out votes that its signers hold",
}


def _in_words(objection: ObjectionView) -> str:
    words = FINDINGS.get(objection.finding, objection.finding)
    if objection.differences:
        words += f" ({', '.join(objection.differences)})"
    if objection.objecting:
        own = ", this node too" if objection.objects else ""
        words += f"; {objection.objecting} of {objection.total} weight objects{own}"
    return words + ("; it is void" if objection.voided else "")


@click.command("why-differ")
@click.argument("epoch", type=click.IntRange(0))
@click.option("--peer", "account", help="A member: compare with the result it signed (newest epoch only).")
@click.option("--file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Content of a result.")
@target_options
def why_differ(target: Target, epoch: int, account: str | None, file: Path | None) -> None:
    """Show where two results of an epoch differ, and why.

    Compares the result this node formed for EPOCH with another one, to the field. Without an
    option the other one is what the chain accepted. Leaves with 1 where they differ.

    \b
    Examples:
      quern why-differ 17
      quern why-differ 17 --peer 0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A
      quern why-differ 17 --file result-17.bin
    """
    parameters = {"epoch": epoch, "account": account, "file": None if file is None else str(file.resolve())}
    view = call_daemon(target, "why_differ", WhyDifferView, parameters)
    if target.as_json:
        print_json(view)
    else:
        print_facts([("ours", view.ours), ("theirs", view.theirs), ("why", "\n".join(view.causes))])
        if view.differences:
            print_table(
                ["field", "ours", "theirs"],
                [[difference.path, difference.ours, difference.theirs] for difference in view.differences],
                empty="",
            )
        if view.cut:
            click.echo("There are more.")
    if view.differences:
        raise SystemExit(1)
