"""The pages and static files as the router serves them, and what their sources may and may not say."""

import importlib.metadata
import re
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

import dashboard
from campaigns.states import CAMPAIGN_STEPS, CampaignState, CampaignStep

STATIC = Path(dashboard.__file__).parent / "static"
SOURCES = sorted(STATIC.iterdir())
SCRIPTS = sorted(STATIC.glob("*.js"))
PAGES = {"campaigns.html": "campaigns.js", "campaign.html": "campaign.js"}
NAMESPACES = ("http://www.w3.org/2000/svg",)
MAX_LINES = {".css": 500}


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    app.include_router(dashboard.router())
    return TestClient(app)


@pytest.mark.parametrize("path", ["/", "/campaigns/abcd2345"])
def test_pages_are_html_that_browsers_ask_for_again(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.text.startswith("<!doctype html>")


@pytest.mark.parametrize("path", ["/", "/campaigns/abcd2345"])
def test_everything_that_a_page_loads_is_served(client: TestClient, path: str) -> None:
    found = re.findall(r'(?:src|href)="(/static/[^"]+)"', client.get(path).text)
    assert len(found) >= 3
    assert {client.get(address).status_code for address in found} == {200}


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("app.css", "text/css; charset=utf-8"),
        ("front.js", "text/javascript; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
    ],
)
def test_static_files_have_their_type_and_are_revalidated(client: TestClient, name: str, media_type: str) -> None:
    response = client.get(f"/static/{name}")
    assert response.content == (STATIC / name).read_bytes()
    assert response.headers["content-type"] == media_type
    assert response.headers["cache-control"] == "no-cache"


def test_an_unchanged_file_is_not_sent_again(client: TestClient) -> None:
    etag = client.get("/static/app.css").headers["etag"]
    again = client.get("/static/app.css", headers={"If-None-Match": etag})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert client.get("/static/app.css", headers={"If-None-Match": '"other"'}).status_code == 200


def test_plotly_comes_from_the_installed_package_and_is_kept(client: TestClient) -> None:
    version = importlib.metadata.version("plotly")
    assert f'src="/static/plotly.min.js?v={version}"' in client.get("/campaigns/abcd2345").text
    response = client.get(f"/static/plotly.min.js?v={version}")
    assert "plotly.js" in response.text[:100]
    assert response.headers["content-type"] == "text/javascript; charset=utf-8"
    assert response.headers["cache-control"] == "public, max-age=31536000, immutable"


@pytest.mark.parametrize(
    "path",
    [
        "/static/",
        "/static/nothing.js",
        "/static/../routes.py",
        "/static/..%2froutes.py",
        "/static/%2e%2e/routes.py",
        "/static/..%5croutes.py",
        "/static/%2fetc%2fpasswd",
        "/static/campaign.html",
    ],
)
def test_only_listed_files_are_served(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_the_routes_are_kept_out_of_the_api_schema(client: TestClient) -> None:
    assert client.get("/openapi.json").json()["paths"] == {}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_file_refers_to_another_host(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for namespace in NAMESPACES:
        text = text.replace(namespace, "")
    assert not re.search(r"https?://|[\"'(]//\w|@import|url\(", text)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_files_are_small_and_readable(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MAX_LINES.get(path.suffix, 150)
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("page", PAGES)
def test_pages_run_under_a_content_security_policy_without_inline_scripts(page: str) -> None:
    text = (STATIC / page).read_text(encoding="utf-8")
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", text))
    assert not re.search(r"\son\w+=", text)


@pytest.mark.parametrize(("page", "script"), PAGES.items())
def test_every_element_that_a_script_asks_for_is_in_its_page(page: str, script: str) -> None:
    ids = re.findall(r'\sid="([^"]+)"', (STATIC / page).read_text(encoding="utf-8"))
    asked = {name for module in modules_of(script) for name in re.findall(r'byId\("([^"]+)"\)', source(module))}
    assert len(asked) >= 4
    assert asked <= set(ids)
    assert len(ids) == len(set(ids))


def test_every_script_belongs_to_a_page_and_imports_what_its_modules_export() -> None:
    loaded = set().union(*(modules_of(script) for script in PAGES.values()))
    assert loaded == {path.name for path in SCRIPTS}
    for script in SCRIPTS:
        for names, module in re.findall(r'import \{([^}]+)\} from "\./([^"]+)";', script.read_text(encoding="utf-8")):
            exported = set(re.findall(r"export (?:async )?(?:function\*?|const|class) (\w+)", source(module)))
            assert {name.strip() for name in names.split(",")} <= exported, f"{script.name} from {module}"


def test_every_import_is_used() -> None:
    for script in SCRIPTS:
        text = script.read_text(encoding="utf-8")
        for names in re.findall(r"import \{([^}]+)\}", text):
            for name in names.split(","):
                assert len(re.findall(rf"\b{name.strip()}\b", text)) > 1, f"{name} in {script.name}"


def test_buttons_offer_the_steps_that_the_states_allow() -> None:
    table = re.search(r"STEPS = \{(.*?)\};", source("actions.js"), re.DOTALL)
    assert table is not None
    offered = {
        state: set(re.findall(r'"(\w+)"', steps)) for state, steps in re.findall(r"(\w+): \[([^\]]*)\]", table.group(1))
    }
    of_people = {CampaignStep.PAUSE, CampaignStep.RESUME, CampaignStep.STOP, CampaignStep.CANCEL}
    allowed = {
        state.value: {step.value for step in CAMPAIGN_STEPS[state] if step in of_people} for state in CampaignState
    }
    assert offered == allowed


def test_states_are_coloured_by_the_names_that_exist() -> None:
    coloured = set(re.findall(r'\[data-state="(\w+)"\]', source("app.css")))
    assert coloured <= {state.value for state in CampaignState}


def source(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


def modules_of(script: str) -> set[str]:
    """The script and all that it imports, in turn."""
    found, waiting = set[str](), [script]
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting += [other for other in re.findall(r'from "\./([^"]+)"', source(name)) if other not in found]
    return found
