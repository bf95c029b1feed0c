"""What the operator decides."""

import ipaddress
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError

from campaigns.noun import Noun


class Settings(Noun):
    """Settings of the API. Raises `pydantic.ValidationError` for a host that others can reach without a token."""

    database_url: str = Field(description="sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME")
    home: Path = Field(description="Folder for caches")
    model_roots: tuple[Path, ...] = Field((), description="Folders under which checkpoints may lie")
    hub_repositories: tuple[str, ...] = Field((), description="Hub repositories that may be downloaded, `owner/name`")
    host: str = "127.0.0.1"
    port: int = Field(8400, ge=0, le=65535)
    token: SecretStr | None = Field(None, description="Bearer token that requests must carry")
    max_body_bytes: int = Field(1_000_000, ge=1)
    max_page: int = Field(500, ge=1)
    worker_seen_seconds: float = Field(60, gt=0, description="How long ago the last heartbeat of a live worker may be")

    @model_validator(mode="after")
    def _closed_to_strangers(self) -> Self:
        if self.token is not None and not self.token.get_secret_value():
            raise PydanticCustomError("token", "the token is empty", {"field": "token", "value": ""})
        if self.token is None and not is_loopback(self.host):
            message = "a host that other machines can reach needs a token"
            context = {"field": "host", "value": self.host, "allowed": "127.0.0.1, ::1, localhost, or set a token"}
            raise PydanticCustomError("host", message, context)
        return self


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`. A name that is not an address counts as reachable by others."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
