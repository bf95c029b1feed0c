"""The docs keep up with the code: packages, commands, methods, and the specs that pages show."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from typer.main import get_command

from campaigns.inventory import Inventory, resolve
from campaigns.merge_config import METHODS as METHOD_NOUNS
from campaigns.merge_config import parse_merge_config
from campaigns.spaces import OneMethod, SparseSpace
from campaigns.spec import parse_spec
from evaluators.inventory import offered_tasks
from mergefront.cli import app
from merging.methods import METHODS
from optimizer.strategies import STRATEGIES

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
METHODS_PAGE = (ROOT / "docs" / "methods.md").read_text()
WARM_STARTS_PAGE = (ROOT / "docs" / "warm_starts.md").read_text()
RACING_PAGE = (ROOT / "docs" / "racing.md").read_text()
STRATEGIES_PAGE = (ROOT / "docs" / "strategies.md").read_text()
POOLS_PAGE = (ROOT / "docs" / "pools.md").read_text()
SPACES = {space.model_fields["kind"].default: space for space in get_args(get_args(OneMethod)[0])}
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def examples_of(page: str) -> list[dict[str, Any]]:
    return [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]


def test_the_tree_names_every_package():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages
    assert not [name for name in packages if f"\n{name}/" not in README]


@pytest.mark.parametrize("command", sorted(get_command(app).commands))
def test_the_readme_shows_every_command(command):
    assert f"mergefront {command}" in README or f"make {command}" in README


def test_the_specs_of_the_pages_run_on_tasks_that_lm_eval_has(tmp_path):
    smallest, *others = examples_of(README)
    spaces = examples_of(METHODS_PAGE)
    assert len(others) > 1 and len(spaces) > 1
    base = {"name": "base", "path": "/models/base"}
    pool = [{**checkpoint, "statistics": "s.safetensors"} for checkpoint in smallest["pool"]["checkpoints"]]
    inventory = Inventory(tasks=offered_tasks([], tmp_path), methods=tuple(METHODS), strategies=tuple(STRATEGIES))
    for document in (
        smallest,
        *({**smallest, **o, "pool": {"checkpoints": pool, "base": base}} for o in others + spaces),
        *({**smallest, **example} for example in examples_of(RACING_PAGE)),
    ):
        resolve(parse_spec(document), inventory)


def test_the_pool_of_the_page_about_pools_is_one():
    [example] = examples_of(POOLS_PAGE)
    pool = parse_merge_config({**example, "method": "task_arithmetic", "weights": 0.5}).pool
    assert pool.base is not None
    assert pool.embeddings == "truncate"


def test_the_examples_of_the_page_about_warm_starts_fit_the_smallest_spec():
    smallest = examples_of(README)[0]
    constraints, points = examples_of(WARM_STARTS_PAGE)
    assert len(parse_spec({**smallest, **constraints}).constraints) == 2
    spec = parse_spec({**smallest, **points})
    assert [set(point) for point in spec.warm_start.points] == [{f"weight.{name}" for name in spec.pool.names}]


@pytest.mark.parametrize("kind", STRATEGIES)
def test_every_strategy_has_a_row(kind):
    assert re.search(rf"^\|[^|]*`{kind}`", STRATEGIES_PAGE, re.MULTILINE)


@pytest.mark.parametrize("kind", METHODS)
def test_every_method_has_a_section_a_row_a_file_and_a_space(kind):
    assert f"\n### {kind}\n" in METHODS_PAGE
    assert f"\n| [`{kind}`](#{kind}) | " in METHODS_PAGE
    assert f"`{kind}`" in README
    assert (ROOT / "merging" / "methods" / f"{kind}.py").is_file()
    assert kind in SPACES


def test_every_section_about_a_method_says_the_same_things():
    sections = re.split(r"\n### ", METHODS_PAGE)[1:]
    assert [section.partition("\n")[0] for section in sections] == re.findall(r"\n\| \[`(\w+)`", METHODS_PAGE)
    for section in sections:
        assert section.partition("\n")[2].startswith("\n    ")  # a formula
        for word in ("Space: ", "\n- When: ", "\n- mergekit: "):
            assert word in section or (word == "Space: " and section.startswith("model_stock"))


@pytest.mark.parametrize("kind", METHODS)
def test_the_row_of_a_method_names_its_parameters_and_needs(kind):
    noun = METHOD_NOUNS[kind]
    [row] = re.findall(rf"\n\| \[`{kind}`\]\S+ \| ([^\n]*) \|", METHODS_PAGE)
    _, needs, parameters = (cell.strip() for cell in row.split("|"))
    assert re.findall(r"\w+", parameters) == [name for name in noun.model_fields if name != "kind"]
    assert ("base" in needs and "optional" not in needs) == noun.needs_base


@pytest.mark.parametrize("kind", METHODS)
def test_the_section_of_a_method_has_the_bounds_of_its_space(kind):
    [section] = re.findall(rf"\n### {kind}\n(.*?)(?:\n##|\Z)", METHODS_PAGE, re.DOTALL)
    space = SPACES[kind]()
    searched = {name: value for name, value in space.numbers().items() if isinstance(value, tuple)}
    if isinstance(space, SparseSpace):
        searched["densities"] = space.densities.bounds
    for name, (low, high) in searched.items():
        assert f"{name} in [{low:g}, {high:g}]" in " ".join(section.split())


def test_the_files_that_the_architecture_page_names_are_there():
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = re.findall(r"`([a-z_]+/[a-z_/]+(?:\.py)?)`", page)
    assert len(named) > 10
    assert not [name for name in named if not (ROOT / name).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_are_there(page):
    for target, anchor in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", page.read_text()):
        there = (page.parent / target) if target else page
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}
