"""What `quern status --json` shows of content: what the gateway gave, and what was fetched."""

from node.control.views import ContentView
from node.models.content import ContentAdapter


def content_view(content: ContentAdapter) -> ContentView:
    """Return the view of the present counts."""
    server = content.server
    return ContentView(
        served_bytes=content.served_bytes,
        answers={} if server is None else {str(status): count for status, count in server.metrics.answers.items()},
        connections=0 if server is None else server.open_connections,
        connections_accepted=0 if server is None else server.metrics.connections,
        slow_readers_cut=0 if server is None else server.metrics.slow_readers_cut,
        fetched_bytes=content.fetched_bytes.total(),
        duplicate_bytes=content.duplicate_bytes,
        sources_dropped=content.sources_dropped,
    )
