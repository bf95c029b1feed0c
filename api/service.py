"""What the routes work with: made once per application, handed to each route by `Depends`."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from api.event_feed import EventFeed
from api.open_pools import OpenPools
from api.settings import Settings
from api.streams import Streams
from storage import Store


@dataclass(frozen=True)
class Service:
    """The parts of one application."""

    settings: Settings
    store: Store
    pools: OpenPools
    streams: Streams
    events: EventFeed


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceOf = Annotated[Service, Depends(_service)]
