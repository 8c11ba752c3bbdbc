"""`[metrics]`: metrics for Prometheus."""

from pydantic import Field

from node.settings.section import Section
from node.settings.value_types import Port


class MetricsSettings(Section):
    """Metrics for Prometheus, at /metrics."""

    enabled: bool = Field(default=True, description="Whether they are served.")
    host: str = Field(
        default="127.0.0.1", description="Address to listen on. They tell earnings and peers: keep them to yourself."
    )
    port: Port = Field(
        default=9464,
        description="Port to listen on; 0 takes a free one. If another program has it, there are no metrics, and the\n"
        "log says so.",
    )
