"""What can be asked to be downloaded: one schema for the control socket, the REST API and the registry's rows."""

import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator

from node.models.identity import LocalModelId, check_file_path, parse_model_id
from node.models.selection import PATTERN_CHARACTERS_MAX, WANTED, Selection
from node.models.states import ModelType

URL_CHARACTERS_MAX = 2048
HTTP_FILES_MAX = 1000
REPO_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?$"
SHA256_FRAGMENT = re.compile(r"sha256=([0-9a-f]{64})")

Pattern = Annotated[str, Field(min_length=1, max_length=PATTERN_CHARACTERS_MAX)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    model_id: str | None = None
    """Under which name it is kept; without it, one made of the source."""
    model_type: ModelType | None = None
    """Without it, as the source says."""
    include: list[Pattern] = Field(default=[], max_length=32)
    exclude: list[Pattern] = Field(default=[], max_length=32)

    @field_validator("model_id")
    @classmethod
    def _usable(cls, value: str | None) -> str | None:
        return None if value is None else parse_model_id(value)

    @property
    def selection(self) -> Selection:
        """Which files are taken."""
        return Selection(tuple(self.include), tuple(self.exclude))


class HubRequest(_Request):
    """A repository of the Hugging Face Hub."""

    source: Literal["hub"] = "hub"
    repo: str = Field(pattern=REPO_PATTERN)
    revision: str = Field(default="main", pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$")
    """A commit, branch or tag. It is resolved once, to a commit; that is what is downloaded."""

    @property
    def selection(self) -> Selection:
        """Which files are taken: by default those that are data, never pickles or code."""
        return Selection(tuple(self.include) or WANTED, tuple(self.exclude))

    def local_id(self) -> LocalModelId:
        """Return the id it is kept under."""
        return parse_model_id(self.model_id or f"huggingface/{self.repo}")


class IpfsRequest(_Request):
    """A directory by its CID, from peers of the network."""

    source: Literal["ipfs"] = "ipfs"
    cid: str = Field(pattern=r"^[a-z0-9]{10,120}$")

    @field_validator("include", "exclude")
    @classmethod
    def _whole(cls, value: list[str]) -> list[str]:
        if value:
            raise ValueError("a CID names the whole directory: it cannot be taken in part")
        return value

    def local_id(self) -> LocalModelId:
        """Return the id it is kept under."""
        return parse_model_id(self.model_id or f"ipfs/{self.cid}")


class HttpFile(BaseModel):
    """A file on a web server. `#sha256=…` at the end of the URL says what it must hash to."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    url: str = Field(max_length=URL_CHARACTERS_MAX)
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    path: str | None = None
    """Where it lies in the model; without it, the last part of the URL."""

    @field_validator("url")
    @classmethod
    def _http(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected a URL such as https://host/model.safetensors")
        if parts.username or parts.password:
            raise ValueError("a URL with a password in it would stand in the registry: not taken")
        return value

    @property
    def digest(self) -> str | None:
        """What it must hash to, if that is known."""
        found = SHA256_FRAGMENT.fullmatch(urlsplit(self.url).fragment)
        return self.sha256 or (found[1] if found else None)

    @property
    def name(self) -> str:
        """Where it lies in the model. Raises BadNameError."""
        return str(check_file_path(self.path or unquote(urlsplit(self.url).path).rpartition("/")[2]))


class HttpRequest(_Request):
    """Files on web servers, such as those of a release."""

    source: Literal["http"] = "http"
    model_id: str
    files: list[HttpFile] = Field(min_length=1, max_length=HTTP_FILES_MAX)

    @field_validator("files")
    @classmethod
    def _distinct(cls, value: list[HttpFile]) -> list[HttpFile]:
        names = [file.name for file in value]
        if len(set(names)) != len(names):
            raise ValueError("two files have the same name; give each a `path`")
        for file in value:
            if file.url.startswith("http:") and file.digest is None:
                raise ValueError(f"{file.url}: anyone on the way can change what comes over http: give its sha256")
        return value

    def local_id(self) -> LocalModelId:
        """Return the id it is kept under."""
        return parse_model_id(self.model_id)


class DirectoryRequest(_Request):
    """A directory of this machine, which is copied."""

    source: Literal["directory"] = "directory"
    directory: Path

    @field_validator("directory")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        if not value.is_absolute():
            raise ValueError("give the directory's full path: the daemon has another working directory")
        return value

    def local_id(self) -> LocalModelId:
        """Return the id it is kept under."""
        return parse_model_id(self.model_id or f"custom/{self.directory.name}")


DownloadRequest = Annotated[HubRequest | IpfsRequest | HttpRequest | DirectoryRequest, Field(discriminator="source")]
_ADAPTER: TypeAdapter[HubRequest | IpfsRequest | HttpRequest | DirectoryRequest] = TypeAdapter(DownloadRequest)


def request_to_json(request: DownloadRequest) -> str:
    """Return the text of a request for the registry."""
    return request.model_dump_json(exclude_defaults=False)


def request_from_json(text: str) -> DownloadRequest:
    """Read a request back. Raises ValueError for what is none."""
    return _ADAPTER.validate_json(text)
