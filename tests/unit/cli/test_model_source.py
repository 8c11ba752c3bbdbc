"""What is typed as a model's source means what it looks like."""

from pathlib import Path

import pytest

from node.cli.model_source import request_of
from node.cli.options import CommandFailed

CID = "bafybeifine"


def test_a_source_means_what_it_looks_like(tmp_path: Path) -> None:
    assert request_of(("owner/name",), None) == {"source": "hub", "repo": "owner/name"}
    assert request_of(("owner/name",), "v1")["revision"] == "v1"
    assert request_of((CID,), None) == {"source": "ipfs", "cid": CID}
    assert request_of((f"ipfs/{CID}",), None) == {"source": "ipfs", "cid": CID}
    assert request_of((str(tmp_path),), None) == {"source": "directory", "directory": str(tmp_path)}
    assert request_of(("https://h/a", "https://h/b"), None)["files"] == [{"url": "https://h/a"}, {"url": "https://h/b"}]
    with pytest.raises(CommandFailed):
        request_of(("owner/name", "https://h/b"), None)
