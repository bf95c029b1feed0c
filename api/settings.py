"""What the operator decides."""

import ipaddress
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator

from campaigns.noun import Noun, wrong


class Settings(Noun):
    """Settings of the API. A host that others can reach needs a token, here or in the database: see `create_app`."""

    database_url: str = Field(description="sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME", repr=False)
    home: Path = Field(description="Folder for caches")
    model_roots: tuple[Path, ...] = Field((), description="Folders under which checkpoints may lie")
    hub_repositories: tuple[str, ...] = Field((), description="Hub repositories that may be downloaded, `owner/name`")
    host: str = "127.0.0.1"
    port: int = Field(8400, ge=0, le=65535)
    token: SecretStr | None = Field(None, description="Bearer token that may do everything, beside the database's")
    max_body_bytes: int = Field(1_000_000, ge=1)
    body_seconds: float = Field(30, gt=0, description="How long a request's body may take to arrive")
    requests_per_second: float = Field(200, gt=0, description="What one token, or one address, may ask in the long run")
    burst: int = Field(1000, ge=1, description="What one token, or one address, may ask at once")
    max_page: int = Field(500, ge=1)
    max_streams: int = Field(4, ge=1, description="Weight streams at once; each merges as it is sent")
    stream_wait_seconds: float = Field(5, gt=0, description="How long a stream waits for another one's end")
    stream_stall_seconds: float = Field(60, gt=0, description="How long a client may take nothing of its stream")
    worker_seen_seconds: float = Field(60, gt=0, description="How long ago the last heartbeat of a live worker may be")

    @model_validator(mode="after")
    def _no_empty_token(self) -> Self:
        if self.token is not None and not self.token.get_secret_value().strip():
            raise wrong("token", "", "the token is empty")
        return self


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`. A name that is not an address counts as reachable by others."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
