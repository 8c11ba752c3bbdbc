"""Commands about what an epoch paid: scores, rewards, and why a participant was not paid more."""

import click

from node.amounts import amount_to_tokens
from node.cli.calls import call_daemon
from node.cli.options import Target, target_options
from node.cli.render import print_facts, print_json, print_table
from node.control.reward_views import EpochRewardView, RewardsView, ScoresView, ScoreView, WhyNotPaidView

PER_MILLE = 1000
UNKNOWN = "?"
NOTHING_TO_EARN = "There was nothing to be earned: it had no weight in the group of this epoch, and no batch to count"


@click.command()
@click.argument("participant", required=False)
@click.option("--all", "everybody", is_flag=True, help="Everybody's, as a table.")
@target_options
def score(target: Target, participant: str | None, everybody: bool) -> None:
    """Show the newest score, and why points were lost.

    Without PARTICIPANT, an account, it is this node's. The score is 0.4 quality + 0.3 speed + 0.2 availability +
    0.1 participation. It steers who is asked, and half of the reward.

    \b
    Examples:
      quern score
      quern score --all
      quern score --json | jq '.scores[0].parts[] | select(.per_mille < 1000)'
    """
    view = call_daemon(target, "score", ScoresView, {"participant": participant, "all": everybody})
    if target.as_json:
        print_json(view)
    elif view.epoch is None:
        click.echo("There is no result yet: the first epoch has not ended.")
    elif everybody:
        print_table(
            ["participant", "score", *(["quality", "speed", "availability", "participation"])],
            [
                [s.participant, _points(s.per_mille), *(_points(part.per_mille) for part in s.parts)]
                for s in view.scores
            ],
            empty="Nobody has a score.",
        )
    else:
        for found in view.scores:
            _print_score(found)


@click.command()
@click.argument("participant", required=False)
@click.option("--epochs", type=click.IntRange(1, 64), default=8, show_default=True, help="How many of the newest.")
@target_options
def rewards(target: Target, participant: str | None, epochs: int) -> None:
    """Show what the newest epochs paid, and what they did not.

    \b
    Examples:
      quern rewards
      quern rewards --epochs 24
      quern why-not-paid 17
    """
    view = call_daemon(target, "rewards", RewardsView, {"participant": participant, "epochs": epochs})
    if target.as_json:
        print_json(view)
        return
    print_table(
        ["epoch", "weight", "all models", "score", "paid (tokens)", "not paid (tokens)"],
        [
            [
                str(epoch.epoch),
                str(epoch.weight),
                "yes" if epoch.covers_models else "no",
                "–" if epoch.score_per_mille is None else _points(epoch.score_per_mille),
                _paid(epoch),
                amount_to_tokens(int(epoch.not_paid)) if epoch.is_known else UNKNOWN,
            ]
            for epoch in view.epochs
        ],
        empty="No epoch has ended yet.",
    )
    print_facts(
        [
            ("participant", view.participant),
            ("earned in all", UNKNOWN if view.cumulative is None else _tokens(view.cumulative)),
            ("claimed", _tokens(view.claimed)),
        ]
    )
    if view.cumulative is None or not all(epoch.is_known for epoch in view.epochs):
        click.echo("\n?: no peer gave the content of a result. Try again when more are connected: quern peers")
    unpaid = [epoch.epoch for epoch in view.epochs if int(epoch.not_paid)]
    if unpaid:
        named = "" if participant is None else f" {participant}"
        click.echo(f"\nWhy not more: quern why-not-paid {unpaid[0]}{named}")


@click.command("why-not-paid")
@click.argument("epoch", type=click.IntRange(0))
@click.argument("participant", required=False)
@target_options
def why_not_paid(target: Target, epoch: int, participant: str | None) -> None:
    """Explain every unit of reward that EPOCH did not pay.

    The most is what PARTICIPANT (without it, this node) would have earned had all its nodes proved themselves, with
    every model covered and a full score. What each fault cost adds up to the difference, to the unit.

    \b
    Examples:
      quern why-not-paid 17
      quern why-not-paid 17 0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A
    """
    view = call_daemon(target, "why_not_paid", WhyNotPaidView, {"epoch": epoch, "participant": participant})
    if target.as_json:
        print_json(view)
        return
    print_facts(
        [
            ("participant", view.participant),
            ("most it could earn", _tokens(view.most)),
            ("paid", _tokens(view.paid)),
            ("evidence", view.evidence or "none: the epoch has no accepted result"),
        ]
    )
    click.echo()
    print_table(
        ["not paid (tokens)", "reason", "what it is about", "in words"],
        [[amount_to_tokens(int(part.amount)), part.reason, part.subject, part.words] for part in view.parts],
        empty="Everything was paid that could be earned."
        if int(view.most)
        else f"{NOTHING_TO_EARN}; {view.why_nothing}.",
    )
    if view.models_lacking:
        click.echo(f"Models it did not serve: {', '.join(view.models_lacking)}")
    for remedy in dict.fromkeys(part.remedy for part in view.parts if part.remedy):
        click.echo(f"→ {remedy}")


def _tokens(amount: str) -> str:
    return f"{amount_to_tokens(int(amount))} tokens"


def _paid(epoch: EpochRewardView) -> str:
    if not epoch.is_known:
        return UNKNOWN
    return amount_to_tokens(int(epoch.paid)) if epoch.has_result else "no result"


def _print_score(score: ScoreView) -> None:
    print_facts([("participant", score.participant), ("epoch", str(score.epoch)), ("score", _points(score.per_mille))])
    rows = []
    for part in score.parts:
        rows.append([part.name, f"{part.weight_percent} %", _points(part.per_mille), "", ""])
        rows += [["", "", f"-{_points(loss.per_mille)}", loss.reason, loss.words] for loss in part.losses]
    print_table(["part", "of the score", "points", "lost for", "in words"], rows, empty="")


def _points(per_mille: int) -> str:
    return f"{per_mille / PER_MILLE:.3f}"
