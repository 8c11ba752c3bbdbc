"""What is measured as it happens, because no status shows it afterwards: requests to the gateway and their times.

Everything else is read from the daemon's status when it is asked for (families.py). Labels are bounded: models are
those of the network, outcomes a fixed set.
"""

from prometheus_client import CollectorRegistry, Counter, Histogram

from node.telemetry.tallies import Tallies

FIRST_TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
INTER_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
ANSWER_SECONDS = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
MODELS_MAX = 64
"""Models that are told apart; what is asked of any further one is counted as OTHER."""
OTHER = "other"


class Instruments:
    """Counters and histograms of the gateway, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        model = ("model",)
        self.requests = Counter(
            "quern_gateway_requests",
            "Requests by how they ended: ok, cached, left, or the gateway's error code.",
            ("model", "outcome"),
            registry=self.registry,
        )
        self.embeddings = Counter(
            "quern_gateway_embeddings",
            "Requests for vectors by how they ended: ok, left, or the gateway's error code.",
            ("model", "outcome"),
            registry=self.registry,
        )
        self.tokens = Counter(
            "quern_gateway_tokens",
            "Tokens of answers that were paid for, by kind: prompt or output.",
            ("model", "kind"),
            registry=self.registry,
        )
        self.first_token_seconds = Histogram(
            "quern_gateway_first_token_seconds",
            "Time from the request to the first tokens.",
            model,
            buckets=FIRST_TOKEN_SECONDS,
            registry=self.registry,
        )
        self.inter_token_seconds = Tallies(
            "quern_gateway_inter_token_seconds",
            "Time between pieces of an answer, divided by the tokens of the later one.",
            "model",
            bounds=INTER_TOKEN_SECONDS,
            registry=self.registry,
        )
        self.answer_seconds = Histogram(
            "quern_gateway_answer_seconds",
            "Time from the request to the end of a whole answer.",
            model,
            buckets=ANSWER_SECONDS,
            registry=self.registry,
        )
        self._models: set[str] = set()

    def model_label(self, model_id: str, *, known: bool) -> str:
        """Return the label of a model: its id, or OTHER for one that is not `known` to the network or one too many."""
        if model_id in self._models:
            return model_id
        if not known or len(self._models) >= MODELS_MAX:
            return OTHER
        self._models.add(model_id)
        return model_id
