"""The docs keep up with the code: packages, commands, and the specs that the README shows."""

import re
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from campaigns.inventory import Inventory, resolve
from campaigns.spec import parse_spec
from evaluators.inventory import offered_tasks
from mergefront.cli import app
from merging.methods import METHODS
from optimizer.strategies import STRATEGIES

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_tree_names_every_package():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages
    assert not [name for name in packages if f"\n{name}/" not in README]


@pytest.mark.parametrize("command", sorted(get_command(app).commands))
def test_the_readme_shows_every_command(command):
    assert f"mergefront {command}" in README or f"make {command}" in README


def test_the_specs_of_the_readme_run_on_tasks_that_lm_eval_has(tmp_path):
    smallest, fuller = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL))
    base = {"name": "base", "path": "/models/base"}
    inventory = Inventory(tasks=offered_tasks([], tmp_path), methods=tuple(METHODS), strategies=tuple(STRATEGIES))
    for document in (smallest, {**smallest, **fuller, "pool": {**smallest["pool"], "base": base}}):
        resolve(parse_spec(document), inventory)


def test_the_files_that_the_architecture_page_names_are_there():
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = re.findall(r"`([a-z_]+/[a-z_/]+(?:\.py)?)`", page)
    assert len(named) > 10
    assert not [name for name in named if not (ROOT / name).exists()]
