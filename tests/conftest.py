"""What several packages' tests share: a small zoo of real checkpoints."""

import pytest

from mergefront.demo import load_zoo_module


@pytest.fixture(scope="session")
def zoo_module():
    return load_zoo_module()


@pytest.fixture(scope="session")
def zoo(zoo_module, tmp_path_factory):
    """Checkpoints that hardly learned anything: what is tested does not care, and they are made in seconds."""
    settings = zoo_module.Settings(
        width=32,
        layers=2,
        base_steps=4,
        generalist_steps=(3, 4),
        expert_steps=3,
        batch_size=16,
        examples=200,
        documents=40,
        threads=1,
    )
    return zoo_module.build_zoo(tmp_path_factory.mktemp("zoo") / "zoo", settings=settings)
