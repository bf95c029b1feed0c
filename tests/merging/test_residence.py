"""Where sources stay: on the device if they fit, else pinned, else in the page cache; said in the log."""

import logging

import pytest
import torch

from campaigns.pools import Pool
from merging.live import LiveModel
from merging.pool_files import PoolFiles
from merging.residence import DEVICE_SHARE, HOST_SHARE, Residence, plan_residence

GIGABYTE = 10**9


@pytest.mark.parametrize(
    ("source_bytes", "expected"),
    [
        (int(DEVICE_SHARE * 80 * GIGABYTE), "device"),
        (int(DEVICE_SHARE * 80 * GIGABYTE) + 1, "pinned"),
        (int(HOST_SHARE * 512 * GIGABYTE), "pinned"),
        (int(HOST_SHARE * 512 * GIGABYTE) + 1, "page cache"),
    ],
)
def test_planned_from_size(source_bytes: int, expected: Residence) -> None:
    assert plan_residence(source_bytes, 80 * GIGABYTE, 512 * GIGABYTE) == expected


def test_said_in_the_log(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="merging.residence"):
        LiveModel(PoolFiles(pool), "bfloat16")
    assert "of sources stay in the page cache" in caplog.text


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_sources_go_to_a_device_that_has_room(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="merging.residence"):
        LiveModel(PoolFiles(pool), "bfloat16", "cuda")
    assert "in the memory of cuda" in caplog.text
