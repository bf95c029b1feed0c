"""Where the sources of a live model stay between candidates: as near to the merge as their size allows."""

import logging
import os
from typing import Literal

import torch

Residence = Literal["device", "pinned", "page cache"]

DEVICE_SHARE = 0.6
"""Of a device's free memory, what sources may take; the rest is for activations and caches."""
HOST_SHARE = 0.5
"""Of the host's free memory, what may be pinned: pinned pages cannot be given back under pressure."""

logger = logging.getLogger(__name__)


def plan_residence(source_bytes: int, free_device_bytes: int, free_host_bytes: int) -> Residence:
    """Return where sources of this size stay for merges on another device than the CPU.

    On the device, if they fit: a merge then moves them at the device's bandwidth. Else pinned on the host, from where
    they are copied at the bus's bandwidth. Else in the page cache, which all actors of the node share.
    """
    if source_bytes <= DEVICE_SHARE * free_device_bytes:
        return "device"
    return "pinned" if source_bytes <= HOST_SHARE * free_host_bytes else "page cache"


def residence_on(device: torch.device, source_bytes: int) -> Residence:
    """Return where sources stay for merges on `device` as it is now, and log it."""
    if device.type == "cpu":
        found: Residence = "page cache"
    else:
        free_device = torch.cuda.mem_get_info(device)[0]
        free_host = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        found = plan_residence(source_bytes, free_device, free_host)
    places = {
        "device": f"in the memory of {device}",
        "pinned": "pinned on the host",
        "page cache": "in the page cache, shared by the processes of this machine",
    }
    logger.info("%.1f GB of sources stay %s", source_bytes / 1e9, places[found])
    return found
