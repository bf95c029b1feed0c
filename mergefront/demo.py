"""`mergefront demo`: the main job, end to end, on a small model zoo made here.

zoo -> service (API, worker, Ray, SQLite) -> campaign over HTTP -> front beside baselines -> pull by id -> use it.
"""

import importlib.util
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from campaigns.errors import MergefrontError
from mergefront.client import DEFAULT_URL, Client, Json
from mergefront.demo_report import demo_report
from mergefront.progress import byte_progress
from mergefront.tables import front_table, group_trials
from mergefront.watching import format_seconds, watch_campaign

ZOO_FILE = Path(__file__).resolve().parents[1] / "examples" / "tiny_zoo.py"
READY_SECONDS = 180.0
SHOWN_ITEMS = 3
SHOWN_MERGES = 8


class DemoFailed(MergefrontError):
    """A part of the demo did not do what it should; the message says which."""

    title = "The demo failed"


class Stopwatch:
    """Seconds per phase, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time the block as phase `name`."""
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 2)


def run_demo(output: Path, port: int, console: Console) -> None:
    """Do the main job and leave `report.json` and `best/` in `output`. Raises `DemoFailed` where a part fails."""
    output = output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    stopwatch = Stopwatch()
    with stopwatch.phase("zoo"):
        zoo_module = load_zoo_module()
        zoo = make_zoo(zoo_module, output / "zoo", console)
    service = Service(output, zoo, port or free_port())
    with service, Client(service.url) as client:
        with stopwatch.phase("service start"):
            service.wait_until_ready(client)
        campaign = search(client, zoo_module.campaign_spec(zoo), service.url, stopwatch, console)
        front = client.front(campaign["id"])
        console.print(front_table(front, most=SHOWN_MERGES))
        hidden = len(group_trials(front, "front")) - SHOWN_MERGES
        if hidden > 0:
            console.print(
                f"... and {hidden} more on the front: see the dashboard, or `mergefront front {campaign['id']}`"
            )
        best = client.best(campaign["id"])
        with stopwatch.phase("pull"):
            directory = pull(client, best["id"], output / "best", console)
        report = demo_report(campaign, front, list(client.trials(campaign["id"])), stopwatch.seconds)
        (output / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        conclude(console, report, campaign)
    show_items(directory, zoo, console)
    say_how_to_go_on(console, output, zoo, campaign["id"])


def load_zoo_module() -> ModuleType:
    """Import the zoo's example by its path: examples are part of a checkout, not of the installed packages."""
    if not ZOO_FILE.exists():
        raise DemoFailed(f"{ZOO_FILE.name} is missing: run the demo from a checkout of the project")
    specification = importlib.util.spec_from_file_location("tiny_zoo", ZOO_FILE)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["tiny_zoo"] = module
    specification.loader.exec_module(module)
    return module


def make_zoo(zoo_module: ModuleType, directory: Path, console: Console) -> Path:
    """Train the zoo, or find the one that was made before, with a progress bar."""
    columns = (TextColumn("[bold]zoo[/] {task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=1.0)
        named: list[str] = []

        def show(share: float, checkpoint: str) -> None:
            progress.update(task, completed=share, description=checkpoint)
            if not console.is_terminal and checkpoint not in named:
                named.append(checkpoint)
                console.print(f"zoo: training {checkpoint}, {share:.0%} done")

        zoo: Path = zoo_module.build_zoo(directory, progress=show)
        progress.update(task, completed=1.0, description="ready")
    return zoo


class Service:
    """`mergefront serve` as a process of its own, on loopback; ended with the block."""

    def __init__(self, output: Path, zoo: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._log = output / "service.log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(serve_command(output, zoo, port), stdout=log, stderr=log)

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def wait_until_ready(self, client: Client) -> None:
        """Wait for the API and the worker's inventory."""
        deadline = time.monotonic() + READY_SECONDS
        while not client.is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise DemoFailed(f"the service did not become ready; its log is {self._log}")
            time.sleep(0.2)


def serve_command(output: Path, zoo: Path, port: int) -> list[str]:
    """Return the command that serves the demo's database, models and tasks."""
    folders = ["--home", str(output / "home"), "--models", str(zoo), "--tasks", str(zoo / "tasks")]
    return [sys.executable, "-m", "mergefront", "serve", "--port", str(port), *folders]


def free_port() -> int:
    """Return a port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def search(client: Client, spec: Json, url: str, stopwatch: Stopwatch, console: Console) -> Json:
    """Launch the campaign over HTTP and follow it to its end."""
    with stopwatch.phase("launch"):
        campaign = client.launch(spec)
    console.print(f"campaign {campaign['id']}: {url}/campaigns/{campaign['id']}", highlight=False)
    with stopwatch.phase("campaign"):
        campaign = watch_campaign(client, campaign["id"], console)
    if campaign["state"] != "complete":
        raise DemoFailed(f"campaign {campaign['id']} is {campaign['state']}: {campaign['reason']}")
    return campaign


def pull(client: Client, trial_id: str, directory: Path, console: Console) -> Path:
    """Download the recommended merge by its id; the last demo's is replaced."""
    if directory.exists():
        shutil.rmtree(directory)
    with byte_progress(console, f"pulling {trial_id}") as progress:
        return client.pull(trial_id, directory, progress)


def conclude(console: Console, report: Json, campaign: Json) -> None:
    """Say in words what was found."""
    console.print(campaign["summary"]["recommendation"]["reason"], style="bold", highlight=False)
    for rival, margin in report["holdout_margins"].items():
        console.print(
            f"holdout macro-average over {rival}: {margin['difference']:+.3f} ± {margin['standard_error']:.3f}"
        )
    utilization = report["actor_utilization"] or 0.0
    console.print(f"actors busy {utilization:.1%} of the search; {report['evaluations']} evaluations")
    console.print("  ".join(f"{phase} {format_seconds(seconds)}" for phase, seconds in report["seconds"].items()))


def show_items(directory: Path, zoo: Path, console: Console) -> None:
    """Load the pulled directory as anybody would and let it answer a few items."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    console.print(f"loaded {directory.name}/ with AutoModelForCausalLM.from_pretrained:")
    for task in sorted((zoo / "tasks").glob("*.jsonl")):
        items = [json.loads(line) for line in task.read_text().splitlines()[:SHOWN_ITEMS]]
        for item in items:
            if item["prompt"]:
                prompt = tokenizer(item["prompt"], return_tensors="pt")
                generated = model.generate(**prompt, max_new_tokens=12, do_sample=False)
                answer = tokenizer.decode(generated[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
                mark = "✓" if answer.strip() == item["answer"] else f"✗ ({item['answer']})"
                console.print(f"  {item['prompt']}{answer} {mark}", markup=False, highlight=False)


def say_how_to_go_on(console: Console, output: Path, zoo: Path, campaign_id: str) -> None:
    """Print how to keep serving and where to look."""
    shown = output.name
    console.print(f"report: {shown}/report.json   model: {shown}/best/")
    command = f"mergefront serve --home {shown}/home --models {shown}/{zoo.name} --tasks {shown}/{zoo.name}/tasks"
    console.print("keep serving:  make serve   or")
    console.print(f"  .venv/bin/{command}", highlight=False, soft_wrap=True)
    console.print(f"dashboard:     {DEFAULT_URL}/campaigns/{campaign_id}", highlight=False)
