"""What the doctor found: one finding per check."""

from collections.abc import Iterable
from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class Severity(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    SKIPPED = "skipped"
    """Could not be checked, because of another finding or because the daemon is down."""
    WARNING = "warning"
    """The daemon runs, but something costs you money or will go wrong soon."""
    FAULT = "fault"
    """The daemon can't do its work."""


class Finding(BaseModel):
    """The outcome of one check."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    check: str
    """What was checked, in a few words; unique among the findings of one run."""
    severity: Severity
    message: str
    """What was found."""
    remedy: str = ""
    """What to do; empty where nothing is to be done."""


def ok(check: str, message: str) -> Finding:
    """All is well."""
    return Finding(check=check, severity=Severity.OK, message=message)


def skipped(check: str, message: str) -> Finding:
    """The check could not be made."""
    return Finding(check=check, severity=Severity.SKIPPED, message=message)


def warning(check: str, message: str, remedy: str) -> Finding:
    """Something to look after."""
    return Finding(check=check, severity=Severity.WARNING, message=message, remedy=remedy)


def fault(check: str, message: str, remedy: str) -> Finding:
    """Something to mend."""
    return Finding(check=check, severity=Severity.FAULT, message=message, remedy=remedy)


def has_fault(findings: Iterable[Finding]) -> bool:
    """Whether any finding is a fault."""
    return any(finding.severity is Severity.FAULT for finding in findings)
