"""Commands for what holds in an epoch: show and schedule parameters."""

from dataclasses import asdict, replace

import click

from contracts.bindings import epoch_manager
from node.chain.owner_calls import (
    ask,
    prepare_epoch_call,
)
from scripts.owner.options import Options, chain_options, sending_options
from scripts.owner.registry import carry_out, open_registry, show


@click.group()
def parameters() -> None:
    """Show and change what holds in an epoch.

    Its length, its stages, the sample of nonces, the price of a unit of compute.
    """


@parameters.command("show")
@click.option("--epoch", type=click.IntRange(0, 2**32 - 1), help="Which epoch.  [default: the present one]")
@chain_options
async def show_parameters(options: Options, *, epoch: int | None) -> None:
    """Show the parameters of an epoch.

    As far as they are known now: a change may still be scheduled for later ones.
    """
    async with open_registry(options) as registry:
        rpc, manager = registry.rpc, registry.addresses.epoch_manager
        wanted = (await ask(rpc, manager, epoch_manager.current_stage())).epoch if epoch is None else epoch
        found = await ask(rpc, manager, epoch_manager.parameters_of(wanted))
    facts = {"epoch": wanted, "since_epoch": found.from_epoch, "since_block": found.from_block}
    show(options, {**facts, **asdict(found.parameters)})


@parameters.command("schedule")
@click.argument("from_epoch", type=click.IntRange(0, 2**32 - 1))
@click.option("--epoch-blocks", type=click.IntRange(1, 2**20 - 1), help="Length of an epoch.")
@click.option("--generate-offset", type=click.IntRange(1, 2**20 - 1), help="First block of GENERATE in it ...")
@click.option("--exchange-offset", type=click.IntRange(1, 2**20 - 1), help="... of EXCHANGE ...")
@click.option("--validate-offset", type=click.IntRange(1, 2**20 - 1), help="... of VALIDATE ...")
@click.option("--vote-exchange-offset", type=click.IntRange(1, 2**20 - 1), help="... of VOTE_EXCHANGE ...")
@click.option("--form-offset", type=click.IntRange(1, 2**20 - 1), help="... of FORM ...")
@click.option("--load-offset", type=click.IntRange(1, 2**20 - 1), help="... of LOAD.")
@click.option("--poc-sample-size", type=click.IntRange(1, 1024), help="Nonces drawn from a batch.")
@click.option("--poc-reject-mismatches", type=click.IntRange(1, 1024), help="Mismatches that refuse a batch.")
@click.option("--unit-price", type=click.IntRange(0, 2**96 - 1), help="Of a unit of compute, in units of 10^-18.")
@sending_options
async def schedule_parameters(options: Options, /, *, from_epoch: int, **given: int | None) -> None:
    """Let other parameters hold from FROM_EPOCH on.

    Two epochs ahead at least. What is not given stays as it is in the present epoch. It takes the place of a change
    that was scheduled and is no nearer than that.
    """
    changed = {name: value for name, value in given.items() if value is not None}
    async with open_registry(options) as registry:
        rpc, manager = registry.rpc, registry.addresses.epoch_manager
        current = (await ask(rpc, manager, epoch_manager.current_stage())).epoch
        present = await ask(rpc, manager, epoch_manager.parameters_of(current))
        call = epoch_manager.schedule_parameters(from_epoch, replace(present.parameters, **changed))
        what = f"schedule parameters from epoch {from_epoch} on"
        prepared = await prepare_epoch_call(rpc, registry.addresses, what, call)
        await carry_out(options, registry, prepared, "the EpochManager's owner")
