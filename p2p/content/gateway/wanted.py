"""Decides what a request asks for, or why it is refused. Pure."""

from dataclasses import dataclass
from enum import Enum

from p2p.content.cid import Cid, CidError
from p2p.content.gateway.ranges import EntityBytes, parse_entity_bytes
from p2p.content.gateway.request import Request, RequestError
from p2p.content.unixfs import UnixFsError, check_name

RAW_TYPE = "application/vnd.ipld.raw"
CAR_TYPE = "application/vnd.ipld.car"
PROBE_CID = "bafkqaaa"
"""An empty block within its own CID. Clients ask for it to see whether a gateway is alive."""
PATH_SEGMENTS_MAX = 32
"""As deep as directories are imported and exported."""


class Format(Enum):
    """The two forms in which a gateway without trust gives content."""

    RAW = "raw"
    CAR = "car"


class Scope(Enum):
    """How much below the end of the path a CAR holds (`dag-scope`)."""

    BLOCK = "block"
    ENTITY = "entity"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class WantedProbe:
    """Only a sign of life."""

    form: Format


@dataclass(frozen=True, slots=True)
class WantedBlock:
    """One block as it is."""

    cid: Cid
    text: str
    """The CID as it was written; there is one way only."""


@dataclass(frozen=True, slots=True)
class WantedCar:
    """A path and what is below its end."""

    cid: Cid
    path: tuple[str, ...]
    scope: Scope
    entity_bytes: EntityBytes | None


Wanted = WantedProbe | WantedBlock | WantedCar


def decide(request: Request) -> Wanted:
    """Return what is asked for. Raises RequestError (400, 404, 405, 406)."""
    if request.method not in ("GET", "HEAD"):
        raise RequestError(405, "only GET and HEAD")
    if len(request.path) < 2 or request.path[0] != "ipfs":
        raise RequestError(404, "paths here are /ipfs/<cid>?format=raw and /ipfs/<cid>/<path>?format=car")
    form = _format(request)
    text, *path = request.path[1:]
    if text == PROBE_CID and not path:
        return WantedProbe(form)
    try:
        cid = Cid.parse(text)
    except CidError as error:
        raise RequestError(400, str(error)) from error
    if form is Format.RAW:
        if path:
            raise RequestError(400, "a raw block has no path; ask with format=car")
        return WantedBlock(cid, text)
    return WantedCar(cid, _check_path(path), _scope(request), _entity_bytes(request))


def _format(request: Request) -> Format:
    named = request.query.get("format")
    if named is not None:
        try:
            return Format(named)
        except ValueError:
            raise RequestError(406, "this gateway gives format=raw and format=car only") from None
    accepted = request.headers.get("accept", "")
    types = [part.split(";")[0].strip().lower() for part in accepted.split(",")]
    if RAW_TYPE in types:
        return Format.RAW
    if CAR_TYPE in types:
        if "version=2" in accepted.replace(" ", ""):
            raise RequestError(406, "this gateway gives CAR version 1 only")
        return Format.CAR
    if accepted and "*/*" not in types:
        raise RequestError(406, f"this gateway gives {RAW_TYPE} and {CAR_TYPE} only")
    raise RequestError(400, "this gateway gives raw blocks and CARs only: ask with ?format=raw or ?format=car")


def _check_path(path: list[str]) -> tuple[str, ...]:
    if len(path) > PATH_SEGMENTS_MAX:
        raise RequestError(400, f"a path of more than {PATH_SEGMENTS_MAX} names")
    try:
        return tuple(check_name(name.encode()) for name in path)
    except UnixFsError as error:
        raise RequestError(400, str(error)) from error


def _scope(request: Request) -> Scope:
    if request.query.get("car-version", "1") != "1":
        raise RequestError(406, "this gateway gives CAR version 1 only")
    try:
        return Scope(request.query.get("dag-scope", "all"))
    except ValueError:
        raise RequestError(400, "dag-scope is block, entity or all") from None


def _entity_bytes(request: Request) -> EntityBytes | None:
    text = request.query.get("entity-bytes")
    return None if text is None else parse_entity_bytes(text)
