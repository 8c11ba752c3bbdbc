"""Makes the source that a request names."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from node.models.directory_source import DirectorySource
from node.models.file_fetching import FindSame
from node.models.guarded_http import GuardedClient
from node.models.http_source import HttpSource
from node.models.peers_source import DirectoryContent, PeersSource, Providers
from node.models.requests import DirectoryRequest, DownloadRequest, HttpRequest, HubRequest, IpfsRequest
from node.models.source import FileSource


@dataclass(frozen=True, slots=True)
class SourceContext:
    """What sources need of this daemon."""

    content: DirectoryContent
    providers: Providers
    client: GuardedClient
    hub_url: str
    hub_token: Callable[[], str | None]
    """Read anew for each download, so that a new token needs no restart. Raises PrivateFileError."""
    hub_cache_dir: Path | None
    verify: bool


def make_source(request: DownloadRequest, context: SourceContext, find_same: FindSame) -> FileSource | PeersSource:
    """Return the source of `request`."""
    match request:
        case HubRequest():
            # Ten megabytes and a quarter of a second, for what most daemons never ask.
            from node.models.hub_source import HubSource  # noqa: PLC0415

            return HubSource(
                request,
                endpoint=context.hub_url,
                token=context.hub_token(),
                find_same=find_same,
                verify=context.verify,
                cache_dir=context.hub_cache_dir,
            )
        case IpfsRequest():
            return PeersSource(request, context.content, context.providers)
        case HttpRequest():
            return HttpSource(request, client=context.client, find_same=find_same, verify=context.verify)
        case DirectoryRequest():
            return DirectorySource(request, find_same=find_same)
