"""The pages in a real browser, over the real API and store, while trials arrive."""

import itertools
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn
from playwright.sync_api import Browser, Page, expect, sync_playwright
from safetensors.torch import load_file

from api import Settings, create_app
from campaigns.objectives import macro_average, macro_standard_error
from campaigns.states import CampaignState, CampaignStep
from storage import Store

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SECONDS = 1000.0
PARENTS = ("maths", "code", "chat", "law")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium"),
    pytest.mark.service,
]


class Server:
    """The API in a thread of this process."""

    def __init__(self, settings: Settings, port: int = 0) -> None:
        config = uvicorn.Config(create_app(settings), port=port, log_level="warning", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def start(self) -> "Server":
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive(), "the server did not start"
        return self

    @property
    def port(self) -> int:
        return int(self._server.servers[0].sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture
def serve(database_url: str, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start the API over the test's database; every server that a test starts is stopped at its end."""
    started = []

    def start(port: int = 0, token: str | None = None) -> Server:
        settings = Settings(database_url=database_url, home=tmp_path / "home", model_roots=(tmp_path,), token=token)
        started.append(Server(settings, port).start())
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def complaints() -> list[str]:
    """What the page complained of: console errors (policy violations among them), exceptions, foreign requests."""
    return []


@pytest.fixture
def page(browser: Browser, complaints: list[str]) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(20 * SECONDS)
    opened.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda made: None if "//127.0.0.1:" in made.url else complaints.append(made.url))
    yield opened
    context.close()


@pytest.fixture
def watched(page: Page, serve: Callable[..., Server], searched: Any) -> Page:
    """The campaign's page, loaded and live."""
    page.goto(f"{serve().url}/campaigns/{searched.id}")
    expect(page.locator("#connection")).to_have_text("live", timeout=20 * SECONDS)
    until(page, TOLD, 40)
    return page


TOLD = "() => document.querySelector('#hypervolume-plot').data?.[0].x.length"
POINTS = "plot => (document.querySelector(plot).data ?? []).map(trace => [trace.name, trace.x.length])"


def points(page: Page, plot: str = "#front-plot") -> dict[str, int]:
    return {name: count for name, count in page.evaluate(POINTS, plot)}  # noqa: C416  pairs arrive as lists


def until(page: Page, script: str, wanted: object) -> None:
    """Wait until `script` gives `wanted`. Playwright's own wait compiles code in the page, which its policy forbids."""
    for _ in range(200):
        if page.evaluate(script) == wanted:
            return
        page.wait_for_timeout(100)
    pytest.fail(f"{script} gives {page.evaluate(script)!r}, not {wanted!r}")


def test_the_list_shows_the_campaign(
    page: Page, serve: Callable[..., Server], searched: Any, complaints: list[str]
) -> None:
    page.goto(serve().url)
    row = page.locator(f"tr[data-campaign='{searched.id}']")
    expect(row.locator(".state")).to_have_text("running")
    expect(row.locator("progress")).to_have_attribute("max", "45")  # 40 candidates and 5 baselines
    expect(row).to_contain_text("± ")
    row.get_by_role("link", name="Four parents, three skills").click()
    expect(page.locator("h1")).to_have_text("Four parents, three skills")
    assert complaints == []


def test_an_empty_list_says_what_to_do(page: Page, serve: Callable[..., Server], store: Store) -> None:
    page.goto(serve().url)
    expect(page.locator("#message")).to_contain_text("mergefront launch SPEC")


def test_the_page_shows_the_front_beside_the_baselines(watched: Page, searched: Any, complaints: list[str]) -> None:
    front = set(searched.campaign().summary.front)
    shown = points(watched)
    assert shown["front"] == len(front)
    assert shown["parents"] == 4
    assert shown["soups"] == 1
    assert shown["recommended"] == 1
    baselines = {trial.id for trial in searched.store.trials(searched.id) if trial.candidate.kind != "candidate"}
    assert shown["candidates"] == 40 - len(front | baselines)
    assert watched.locator("#table-body tr").count() == len(front | baselines)
    expect(watched.locator("#recommendation-reason")).to_contain_text("best macro-average")
    expect(watched.locator("#recommendation code")).to_contain_text(f"mergefront pull {searched.id}-")
    assert complaints == []


def test_failures_are_listed_with_their_reasons(watched: Page) -> None:
    expect(watched.locator("#failures-list li")).to_have_count(2)
    expect(watched.locator("#failures-list")).to_contain_text("infeasible: the logits are not finite")
    expect(watched.locator("#failures-list")).to_contain_text("failed: the actor died: out of memory")


def test_without_a_race_nothing_is_said_of_one(watched: Page) -> None:
    expect(watched.locator("#pruned")).to_be_hidden()
    assert "pruned (estimates)" not in points(watched)
    expect(watched.locator("#facts")).not_to_contain_text("Pruned")
    expect(watched.locator("#facts")).not_to_contain_text("Items scored")


def test_what_a_race_stopped_is_counted_drawn_apart_and_explained(
    page: Page, serve: Callable[..., Server], raced: Any, complaints: list[str]
) -> None:
    page.goto(f"{serve().url}/campaigns/{raced.id}")
    until(page, TOLD, 17)  # the hypervolume stays as it was, up to the last result
    y = page.evaluate("document.querySelector('#hypervolume-plot').data[0].y")
    assert y[-3:] == [raced.campaign().summary.hypervolume] * 3
    shown = points(page)
    assert shown["pruned (estimates)"] == 2
    of_candidates = {t.id for t in raced.store.trials(raced.id) if t.candidate.kind == "candidate" and t.told < 15}
    assert shown.get("candidates", 0) == len(of_candidates - set(raced.campaign().summary.front))
    [trace] = page.evaluate(
        "document.querySelector('#front-plot').data.filter(trace => trace.name.startsWith('pruned'))"
        ".map(trace => [trace.x, trace.y, trace.text[0]])"
    )
    assert trace[:2] == [[0.2, 0.2], [0.2, 0.2]]
    assert "estimates from a part of the items" in trace[2]
    expect(page.locator("#facts")).to_contain_text("Evaluations17 of 45")
    expect(page.locator("#facts")).to_contain_text("Pruned2 trials")
    expect(page.locator("#facts")).to_contain_text(f"Items scored{15 * 300 + 2 * 30:,}")
    page.get_by_text("Which, and why").click()
    expect(page.locator("#pruned-list li")).to_have_count(2)
    expect(page.locator("#pruned-list li").first).to_contain_text("pruned: its chance to be on the front is 0.04")
    expect(page.locator("#failures")).to_be_hidden()
    rows = page.locator("#table-body tr").evaluate_all("rows => rows.map(row => row.dataset.trial)")
    assert not {trial.id for trial in raced.store.trials(raced.id)[-2:]} & set(rows)
    raced.prune_one("its chance to be on the front is 0.05")
    expect(page.locator("#pruned-list li")).to_have_count(3, timeout=20 * SECONDS)
    assert complaints == []


def test_trials_that_were_pruned_are_not_fetched_again(page: Page, serve: Callable[..., Server], raced: Any) -> None:
    page.goto(f"{serve().url}/campaigns/{raced.id}")
    until(page, TOLD, 17)
    asked: list[str] = []
    page.on("request", lambda made: asked.append(made.url) if "/trials?" in made.url else None)
    raced.tell_candidates(1)
    until(page, TOLD, 18)
    assert asked[0].partition("after=")[2].partition("&")[0] == "16"


def test_a_trial_that_is_told_appears_without_reloading(watched: Page, searched: Any, complaints: list[str]) -> None:
    watched.evaluate("window.wasNotReloaded = true")
    searched.tell_candidates(3)
    until(watched, TOLD, 43)
    assert watched.evaluate("window.wasNotReloaded")
    assert points(watched)["front"] == len(searched.campaign().summary.front)
    assert complaints == []


def test_holdout_values_appear_when_the_search_has_ended(watched: Page, searched: Any, complaints: list[str]) -> None:
    assert watched.get_by_role("button", name="holdout").count() == 0
    searched.finish()
    expect(watched.locator("#state")).to_have_text("complete", timeout=20 * SECONDS)
    expect(watched.get_by_role("button", name="Sort by macro-average, holdout items")).to_be_visible(
        timeout=20 * SECONDS
    )
    watched.locator("#split").select_option("holdout")
    expect(watched.locator("#front-plot .xtitle")).to_contain_text("arithmetic (holdout")
    assert points(watched)["front"] == len(searched.campaign().summary.front)
    expect(watched.locator("#actions button")).to_have_count(0)
    expect(watched.locator("#connection")).to_have_text("")  # the stream is over, not broken
    assert complaints == []


def test_pause_and_resume(watched: Page, searched: Any, complaints: list[str]) -> None:
    watched.get_by_role("button", name="Pause").click()
    expect(watched.locator("#state")).to_have_text("paused")
    assert searched.campaign().state == CampaignState.PAUSED
    watched.get_by_role("button", name="Resume").click()
    expect(watched.locator("#state")).to_have_text("running")
    assert searched.campaign().state == CampaignState.RUNNING
    assert complaints == []


def test_cancel_asks_first(watched: Page, searched: Any) -> None:
    cancel = watched.get_by_role("button", name="Cancel", exact=True)
    cancel.click()
    watched.get_by_role("button", name="Keep it").click()
    assert searched.campaign().state == CampaignState.RUNNING
    cancel.click()
    watched.get_by_role("button", name="Cancel campaign").click()
    expect(watched.locator("#state")).to_have_text("cancelled")
    assert searched.campaign().state == CampaignState.CANCELLED


def test_the_axis_pickers_change_the_axes(watched: Page, complaints: list[str]) -> None:
    expect(watched.locator("#front-plot .xtitle")).to_contain_text("arithmetic (search")
    watched.get_by_label("Horizontal").select_option("facts/acc")
    expect(watched.locator("#front-plot .xtitle")).to_contain_text("facts (search")
    watched.get_by_label("Vertical").select_option("macro-average")
    expect(watched.locator("#front-plot .ytitle")).to_contain_text("macro-average (search")
    assert complaints == []


def test_the_table_sorts_by_the_column_that_is_pressed(watched: Page) -> None:
    column = watched.get_by_role("button", name="Sort by facts/acc, search items")
    column.click()
    cells = "[...document.querySelectorAll('#table-body tr')].map(row => parseFloat(row.cells[4].textContent))"
    assert watched.evaluate(cells) == sorted(watched.evaluate(cells), reverse=True)
    expect(watched.locator("th[aria-sort='descending']")).to_contain_text("search")
    column.click()
    assert watched.evaluate(cells) == sorted(watched.evaluate(cells))


def test_the_pull_command_of_any_row_can_be_copied(watched: Page, searched: Any) -> None:
    row = watched.locator(f"tr[data-trial='{searched.id}-0']")
    row.get_by_text("Get").click()
    expect(row.locator(".command code")).to_have_text(f"mergefront pull {searched.id}-0 ./{searched.id}-0")
    row.get_by_role("button", name="Copy").click()
    expect(row.get_by_role("button", name="Copy")).to_have_text("Copied")


@pytest.mark.parametrize("token", [None, "a-long-secret-token"])
def test_the_files_of_a_merge_are_listed_and_downloaded(
    page: Page, serve: Callable[..., Server], on_disk: Any, tmp_path: Path, token: str | None
) -> None:
    url = serve(token=token).url
    page.goto(f"{url}/campaigns/{on_disk.id}")
    if token is not None:
        page.get_by_label("Token").fill(token)
        page.get_by_role("button", name="Continue").click()
    row = page.locator(f"tr[data-trial='{on_disk.id}-4']")
    row.get_by_text("Get").click()
    with page.expect_download() as downloading:
        row.get_by_role("link", name="model.safetensors", exact=True).click()
    downloading.value.save_as(tmp_path / "merged" / "model.safetensors")
    merged = load_file(tmp_path / "merged" / "model.safetensors")["lm_head.weight"]
    parents = [load_file(tmp_path / "zoo" / name / "model.safetensors")["lm_head.weight"] for name in PARENTS]
    torch.testing.assert_close(merged, torch.stack(parents).mean(0))


def test_a_checkpoint_that_cannot_be_merged_says_why(watched: Page, searched: Any) -> None:
    row = watched.locator(f"tr[data-trial='{searched.id}-0']")
    row.get_by_text("Get").click()
    expect(row.get_by_role("alert")).to_contain_text("No files:")


def test_the_scripts_average_as_the_nouns_do(watched: Page, searched: Any) -> None:
    objectives = tuple(
        objective.replace(weight=weight, direction=direction)
        for objective, weight, direction in zip(
            searched.objectives, (2.0, 0.0, 0.5), ("maximize", "maximize", "minimize"), strict=True
        )
    )
    trial = searched.store.trials(searched.id)[0]
    script = "async (given) => (await import('/static/measurements.js')).macroAverage(...given, 'search')"
    found = watched.evaluate(
        script, [trial.model_dump(mode="json"), [one.model_dump(mode="json") for one in objectives]]
    )
    assert found["value"] == pytest.approx(macro_average(objectives, trial.measurements, "search"))
    assert found["standard_error"] == pytest.approx(macro_standard_error(objectives, trial.measurements, "search"))


def test_objectives_are_named_as_the_nouns_name_them(watched: Page, searched: Any) -> None:
    objectives = [*searched.objectives, searched.objectives[0].replace(filter="strict")]
    script = "async (objectives) => objectives.map((await import('/static/measurements.js')).objectiveName)"
    found = watched.evaluate(script, [one.model_dump(mode="json") for one in objectives])
    assert found == [one.name for one in objectives]


def test_a_broken_connection_is_shown_and_taken_up_again(
    page: Page, serve: Callable[..., Server], searched: Any
) -> None:
    server = serve()
    port = server.port
    page.goto(f"{server.url}/campaigns/{searched.id}")
    expect(page.locator("#connection")).to_have_text("live", timeout=20 * SECONDS)
    server.stop()
    expect(page.locator("#connection")).to_have_text("disconnected, retrying", timeout=20 * SECONDS)
    searched.tell_candidates(1)
    serve(port)
    expect(page.locator("#connection")).to_have_text("live", timeout=30 * SECONDS)
    until(page, TOLD, 41)


def test_a_token_is_asked_for_and_sent(page: Page, serve: Callable[..., Server], searched: Any) -> None:
    page.goto(f"{serve(token='a-long-secret-token').url}/campaigns/{searched.id}")
    page.get_by_label("Token").fill("wrong")
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_text("That token was refused.")).to_be_visible()
    page.get_by_label("Token").fill("a-long-secret-token")
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("h1")).to_have_text("Four parents, three skills")
    expect(page.locator("#connection")).to_have_text("live", timeout=20 * SECONDS)


def test_an_unknown_campaign_is_said_to_be_unknown(page: Page, serve: Callable[..., Server], store: Store) -> None:
    page.goto(f"{serve().url}/campaigns/aaaaaaaa")
    expect(page.locator("#message")).to_contain_text("Choose one from the list")
    expect(page.locator("#content")).to_be_hidden()


def test_a_campaign_without_scores_shows_no_empty_plots(
    page: Page, serve: Callable[..., Server], unsearched: Any, complaints: list[str]
) -> None:
    page.goto(f"{serve().url}/campaigns/{unsearched.id}")
    expect(page.locator("#front-note")).to_contain_text("The baselines come first")
    for hidden in ("#front-plot", "#hypervolume-plot", "#table", "#recommendation", "#pruned", "#failures"):
        expect(page.locator(hidden)).to_be_hidden()
    unsearched.tell_baselines()
    expect(page.locator("#front-plot")).to_be_visible(timeout=20 * SECONDS)
    expect(page.locator("#table")).to_be_visible()
    assert complaints == []


def test_where_every_trial_breaks_a_constraint_the_page_says_so(
    page: Page, serve: Callable[..., Server], unsearched: Any, complaints: list[str]
) -> None:
    unsearched.tell_broken("no trial keeps all constraints; one breaks them least")
    page.goto(f"{serve().url}/campaigns/{unsearched.id}")
    expect(page.locator("#recommended-trial")).to_have_text("No trial")
    expect(page.locator("#recommendation-reason")).to_have_text("no trial keeps all constraints; one breaks them least")
    expect(page.locator("#recommendation-get")).to_be_empty()
    expect(page.locator("#table-note")).to_have_text("Empty: no trial keeps all constraints.")
    assert complaints == []


def test_pages_fit_telephones_and_screens(watched: Page) -> None:
    addresses = (watched.url, "/".join(watched.url.split("/")[:3]))
    for address, width in itertools.product(addresses, (390, 1280)):
        watched.set_viewport_size({"width": width, "height": 900})
        watched.goto(address)
        expect(watched.locator("#message")).to_be_hidden()
        assert watched.evaluate("document.documentElement.scrollWidth") == width


def test_the_plots_follow_the_colour_scheme(watched: Page) -> None:
    text = "() => document.querySelector('#front-plot').layout.font.color"
    watched.emulate_media(color_scheme="light")
    until(watched, text, "#24292f")
    watched.emulate_media(color_scheme="dark")
    until(watched, text, "#d8dee6")


def test_names_are_shown_as_text_never_as_html(
    page: Page, serve: Callable[..., Server], searched: Any, complaints: list[str]
) -> None:
    searched.store.step(searched.id, CampaignStep.FAIL, "<img src=x onerror=alert(1)>")
    page.goto(f"{serve().url}/campaigns/{searched.id}")
    expect(page.locator("#reason")).to_have_text("<img src=x onerror=alert(1)>")
    assert page.locator("#reason img").count() == 0
    assert complaints == []
