"""Entity tags: what a client shows again to say which version of a campaign it knows (RFC 9110, section 8.8.3)."""

import re

from campaigns.campaign import Campaign
from storage import version

_TAG = re.compile(r'(?P<weak>W/)?"(?P<version>[^"]*)"')
ANY = "*"


def entity_tag(campaign: Campaign) -> str:
    """Return the tag of a campaign. What only goes by the clock, the seconds of its progress, has no part in it."""
    return f'"{version(campaign)}"'


def is_known(if_none_match: str | None, tag: str) -> bool:
    """Whether the If-None-Match header names `tag`, weakly or not."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == ANY or any(f'"{m["version"]}"' == tag for m in _TAG.finditer(if_none_match))


def expected_versions(if_match: str | None) -> frozenset[str] | None:
    """Return the versions that the If-Match header allows, None where it allows all; weak tags match nothing."""
    if if_match is None or if_match.strip() == ANY:
        return None
    return frozenset(match["version"] for match in _TAG.finditer(if_match) if not match["weak"])
