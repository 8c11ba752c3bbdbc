"""A stand-in for Kubo: an HTTP server that speaks the RPC calls we make as Kubo documents them, and keeps blocks.

Kubo itself is no package of the registries that tests install from. Reference: docs.ipfs.tech/reference/kubo/rpc.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from p2p.content.cid import Cid, Codec
from p2p.content.dagpb import decode_node
from tests.integration.sources.servers import Reply, Request, server_of

CODECS = {"raw": Codec.RAW, "dag-pb": Codec.DAG_PB}


def error(message: str) -> Reply:
    body = json.dumps({"Message": message, "Code": 0, "Type": "error"}).encode()
    return Reply(500, body, {"Content-Type": "application/json"})


def value(**fields: object) -> Reply:
    return Reply(200, json.dumps(fields).encode() + b"\n", {"Content-Type": "application/json"})


@dataclass
class KuboStandIn:
    """Its blocks and pins."""

    blocks: dict[str, bytes] = field(default_factory=dict)
    pins: list[str] = field(default_factory=list)
    old: bool = False
    """Ignores `cid-codec`, as versions before 0.13 do, and names blocks by version 0."""

    def answer(self, request: Request) -> Reply:
        if request.method != "POST":  # Kubo answers 405 to everything else, against pages that make browsers ask
            return Reply(405)
        match request.path:
            case "/api/v0/version":
                return value(Version="0.32.1", Commit="", Repo="16", System="amd64/linux", Golang="go1.23.3")
            case "/api/v0/block/get":
                (name,) = request.query["arg"]
                if name not in self.blocks:
                    return error(f"block was not found locally (offline): ipld: could not find {name}")
                return Reply(200, self.blocks[name], {"Content-Type": "text/plain"})
            case "/api/v0/block/put":
                return self._put(request)
            case "/api/v0/pin/add":
                (name,) = request.query["arg"]
                missing = [str(cid) for cid in self._tree(Cid.parse(name)) if str(cid) not in self.blocks]
                if missing:
                    return error(f"pin: ipld: could not find {missing[0]}")
                self.pins.append(name)
                return value(Pins=[name])
        return Reply(404)

    def _put(self, request: Request) -> Reply:
        boundary = request.headers["content-type"].partition("boundary=")[2].strip('"').encode()
        part = request.body.split(b"--" + boundary)[1]
        data = part.partition(b"\r\n\r\n")[2][:-2]
        if self.old:
            return value(Key="QmOld", Size=len(data))
        cid = Cid.of(CODECS[request.query["cid-codec"][0]], data)
        self.blocks[str(cid)] = data
        return value(Key=str(cid), Size=len(data))

    def _tree(self, root: Cid) -> list[Cid]:
        found, waiting = [root], [root]
        while waiting:
            cid = waiting.pop()
            if cid.codec is Codec.DAG_PB and str(cid) in self.blocks:
                below = [link.cid for link in decode_node(self.blocks[str(cid)]).links]
                found += below
                waiting += below
        return found


@asynccontextmanager
async def kubo_stand_in(kubo: KuboStandIn) -> AsyncIterator[str]:
    """Serve it; yields the address of its API."""
    async with server_of(kubo.answer) as port:
        yield f"/ip4/127.0.0.1/tcp/{port}"
