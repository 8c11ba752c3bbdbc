"""Makes the source that a request names."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from node.models.directory_source import DirectorySource
from node.models.file_fetching import FindSame
from node.models.guarded_http import GuardedClient
from node.models.http_source import HttpSource
from node.models.hub_source import HubSource
from node.models.peers_source import DirectoryContent, PeersSource, Providers
from node.models.requests import DirectoryRequest, DownloadRequest, HttpRequest, HubRequest, IpfsRequest
from node.models.source import ModelSource
from node.models.threads import run_abandonable
from p2p.content.cid import Cid
from p2p.content.unixfs_import import import_path

DEFAULT_HUB_URL = "https://huggingface.co"


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

    async def verify_cid(self, path: Path, cid: str) -> list[str]:
        """Return the faults of a directory that should be `cid`."""
        return await run_abandonable(partial(_cid_faults, path, cid))


def _cid_faults(path: Path, cid: str) -> list[str]:
    found = str(import_path(path, Cid.of).cid)
    if found == cid:
        return []
    return [
        f"its CID is {found}, not {cid}: it is damaged, or was published with other chunk sizes than ours. To be sure, "
        "remove it and download it again"
    ]


def make_source(request: DownloadRequest, context: SourceContext, find_same: FindSame) -> ModelSource:
    """Return the source of `request`."""
    match request:
        case HubRequest():
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
