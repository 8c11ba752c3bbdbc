"""What the operator is told of: kinds of trouble, each with what it means and what to do."""

from dataclasses import dataclass
from enum import StrEnum

SUBJECT_CHARACTERS_MAX = 64
MESSAGE_CHARACTERS_MAX = 1000
"""A message may hold the end of an engine's log."""


class AlertKind(StrEnum):
    """Kinds, as the settings name them."""

    ENGINE_FAILED = "engine-failed"
    ENGINE_GIVEN_UP = "engine-given-up"
    ENGINE_OUTSIDE_RANGE = "engine-outside-range"
    ENGINE_NOT_READY = "engine-not-ready"
    LOW_GAS = "low-gas"
    CHAIN_LAG = "chain-lag"
    DISK = "disk"
    MISSED_DUTY = "missed-duty"
    BAN_STORM = "ban-storm"
    NO_PEERS = "no-peers"
    SERVICE_FAILED = "service-failed"
    TRANSACTION_FAILED = "transaction-failed"
    FALSE_RESULT = "false-result"
    BUDGET_SPENT = "budget-spent"
    NO_RESULT = "no-result"


class Severity(StrEnum):
    """How bad it is."""

    WARNING = "warning"
    """It will cost money if it stays."""
    CRITICAL = "critical"
    """It costs money now."""


SEVERITY_OF = {
    AlertKind.ENGINE_FAILED: Severity.WARNING,
    AlertKind.ENGINE_GIVEN_UP: Severity.CRITICAL,
    AlertKind.ENGINE_OUTSIDE_RANGE: Severity.CRITICAL,
    AlertKind.ENGINE_NOT_READY: Severity.WARNING,
    AlertKind.LOW_GAS: Severity.WARNING,
    AlertKind.CHAIN_LAG: Severity.CRITICAL,
    AlertKind.DISK: Severity.WARNING,
    AlertKind.MISSED_DUTY: Severity.CRITICAL,
    AlertKind.BAN_STORM: Severity.WARNING,
    AlertKind.NO_PEERS: Severity.WARNING,
    AlertKind.SERVICE_FAILED: Severity.CRITICAL,
    AlertKind.TRANSACTION_FAILED: Severity.WARNING,
    AlertKind.FALSE_RESULT: Severity.CRITICAL,
    AlertKind.BUDGET_SPENT: Severity.CRITICAL,
    AlertKind.NO_RESULT: Severity.CRITICAL,
}
REMEDY_OF = {
    AlertKind.ENGINE_FAILED: "It is started again by itself; if that goes on, see logs/ in the data directory.",
    AlertKind.ENGINE_GIVEN_UP: "See logs/ in the data directory, mend the cause, then `quern nodes restart`.",
    AlertKind.ENGINE_OUTSIDE_RANGE: "Install a version of vLLM that the network runs the model with: `quern nodes`.",
    AlertKind.ENGINE_NOT_READY: "It may be loading; if it stays so, see its log. Nothing is earned with it meanwhile.",
    AlertKind.LOW_GAS: "Send gas coins to the account: without them no batch, no vote and no claim gets on chain.",
    AlertKind.CHAIN_LAG: "See [chain] rpc_urls: is an endpoint up? Duties of this epoch are missed until it is.",
    AlertKind.DISK: "Free some space: without it the books cannot be written.",
    AlertKind.MISSED_DUTY: "See the log of that stage. What an epoch has deadlines for is lost for that epoch.",
    AlertKind.BAN_STORM: "See `quern peers bans`: an attack, or honest peers that this node misjudges (its clock?).",
    AlertKind.NO_PEERS: "See `quern network`: is the listening port open, and are the bootstrap peers up?",
    AlertKind.SERVICE_FAILED: "See the log for why, then restart the daemon.",
    AlertKind.TRANSACTION_FAILED: "See `quern chain intents --all` for the contract's reason.",
    AlertKind.FALSE_RESULT: "See `quern poc` and `quern why-differ`. Members object until the epoch ends.",
    AlertKind.BUDGET_SPENT: "Raise [payments] budget and restart: until then users of this gateway get no answers.",
    AlertKind.NO_RESULT: "Nobody is paid until one is accepted. See `quern why-not-paid EPOCH` and `quern poc EPOCH`.",
}


@dataclass(frozen=True, slots=True)
class Alert:
    """Some trouble with something. `subject` tells two of a kind apart: an ML node, a service, an epoch."""

    kind: AlertKind
    subject: str
    message: str

    @property
    def key(self) -> tuple[AlertKind, str]:
        """What makes it the same trouble."""
        return self.kind, self.subject

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return SEVERITY_OF[self.kind]

    @property
    def remedy(self) -> str:
        """What to do."""
        return REMEDY_OF[self.kind]


def make_alert(kind: AlertKind, subject: str, message: str) -> Alert:
    """Return an alert whose words are bounded, whoever's they are."""
    return Alert(kind, subject[:SUBJECT_CHARACTERS_MAX], " ".join(message.split())[:MESSAGE_CHARACTERS_MAX])
