"""`quern doctor`: checks everything a daemon depends on, as far as that can be seen, and says what to do."""

import json
from collections.abc import Sequence
from dataclasses import asdict

import click
import trio
from rich.table import Table
from rich.text import Text

from node.chain.addresses import DeploymentFileError, read_deployment
from node.cli.calls import how_to_start
from node.cli.options import CommandFailed, Target, target_options
from node.cli.render import console
from node.control.client import ControlError, DaemonNotRunningError, connect_control
from node.control.views import DoctorView
from node.doctor.chain import judge_chain, probe_chain
from node.doctor.files import check_files, check_settings
from node.doctor.findings import Finding, Severity, fault, has_fault, ok, skipped
from node.doctor.ipfs import check_kubo
from node.doctor.network import check_listening
from node.keys import KeyFileError, keystore_account
from node.protocol.actions import ZERO_ADDRESS
from node.protocol.identifiers import Address
from node.settings import Settings

LIVE_SECONDS_MAX = 120
"""A daemon on a busy machine takes its time."""
MARKS = {
    Severity.OK: ("ok", "green"),
    Severity.SKIPPED: ("skipped", "dim"),
    Severity.WARNING: ("warning", "yellow"),
    Severity.FAULT: ("FAULT", "bold red"),
}


@click.command()
@target_options
def doctor(target: Target) -> None:
    """Check that everything works.

    Looks at settings, keys, disk, chain, peers, content and engines, and says what to do. Checks what it can with the
    daemon down. Exit code 1 if any check finds a fault; warnings do not count.

    \b
    Examples:
      quern doctor
      quern doctor --json | jq '.findings[] | select(.severity == "fault")'
    """
    findings = trio.run(examine, target)
    if target.as_json:
        click.echo(json.dumps({"findings": [finding.model_dump(mode="json") for finding in findings]}, indent=2))
    else:
        _print(findings)
    if has_fault(findings):
        raise click.exceptions.Exit(1)


async def examine(target: Target) -> list[Finding]:
    """Make all checks and return their findings in order."""
    first, settings = check_settings(target.settings_file)
    findings = [first]
    if settings is None:
        findings += [skipped(check, "needs the settings") for check in ("files", "chain")]
    else:
        findings += check_files(settings)
        findings += await _examine_chain(settings)
        findings += await check_kubo(settings.content.kubo_api)
    return findings + await _examine_daemon(target, settings)


async def _examine_chain(settings: Settings) -> list[Finding]:
    contracts: dict[str, Address] = {}
    findings = []
    try:
        addresses = asdict(read_deployment(settings.chain.deployment).addresses)
        contracts = {name: address for name, address in addresses.items() if address != ZERO_ADDRESS}
    except DeploymentFileError as error:
        findings.append(fault("deployment file", str(error), "Get deployment.json from the network's deployer."))
    facts = await probe_chain(settings.chain.rpc_urls, contracts, _account(settings))
    return findings + judge_chain(facts, settings.chain.chain_id, settings.chain.confirmations)


def _account(settings: Settings) -> Address | None:
    try:
        return keystore_account(settings.account.keystore)
    except KeyFileError:
        return None  # check_keystore tells


async def _examine_daemon(target: Target, settings: Settings | None) -> list[Finding]:
    try:
        socket = target.socket()
    except CommandFailed:
        return [skipped("daemon", "its control socket is not known without settings")]
    try:
        async with connect_control(socket) as client:
            view = await client.call("doctor", {}, DoctorView, deadline_seconds=LIVE_SECONDS_MAX)
    except DaemonNotRunningError as error:
        return [
            fault("daemon", str(error), how_to_start(target)),
            *([] if settings is None else [check_listening(settings.p2p.listen)]),
            *(skipped(check, "the daemon is not running") for check in ("participant", "peers", "content", "engines")),
        ]
    except ControlError as error:
        return [fault("daemon", error.message, error.remedy or "See its log.")]
    return [ok("daemon", f"answers on {socket}"), *view.findings]


def _print(findings: Sequence[Finding]) -> None:
    table = Table.grid(padding=(0, 2))
    for _ in range(3):
        table.add_column(overflow="fold")
    for finding in findings:
        mark, style = MARKS[finding.severity]
        table.add_row(Text(mark, style=style), Text(finding.check), Text(finding.message))
        if finding.remedy:
            table.add_row("", "", Text(f"→ {finding.remedy}", style="italic"))
    console().print(table)
    faults = sum(finding.severity is Severity.FAULT for finding in findings)
    warnings = sum(finding.severity is Severity.WARNING for finding in findings)
    counted = ", ".join(_count(number, what) for number, what in ((faults, "fault"), (warnings, "warning")) if number)
    click.echo(f"\n{counted or 'all is well'}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
