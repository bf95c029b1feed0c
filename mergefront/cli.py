"""The `mergefront` command line. Each command only reads its options and hands over."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer
from pydantic import SecretStr
from rich.console import Console

from mergefront import lifecycle_commands, token_commands
from mergefront.client import DEFAULT_URL, Client, RecipeFormat, Split
from mergefront.options import Database, Home, LogFormatOption, Token, Url
from mergefront.readable_errors import readable_errors
from mergefront.settings import (
    DEFAULT_BURST,
    DEFAULT_HOST,
    DEFAULT_MAX_STREAMS,
    DEFAULT_PORT,
    DEFAULT_REQUESTS_PER_SECOND,
    TOKEN_VARIABLE,
    default_home,
    sqlite_url,
)

app = typer.Typer(
    name="mergefront",
    help="Search the weights that merge your checkpoints into better models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(token_commands.app)
console = Console()

Tasks = Annotated[
    list[Path] | None, typer.Option(exists=True, file_okay=False, help="Folder with lm-eval task files; repeatable.")
]
Models = Annotated[
    list[Path] | None,
    typer.Option(exists=True, file_okay=False, help="Folder that model paths must lie under; repeatable."),
]
Hub = Annotated[list[str] | None, typer.Option(help="Hub repository, owner/name, that may be used; repeatable.")]
ComputeDtype = Literal["float32", "bfloat16"]
RayAddress = Annotated[str | None, typer.Option(help="Ray cluster to join; default: one of its own.")]


@app.command()
def serve(  # noqa: PLR0913  one argument per option
    host: Annotated[str, typer.Option(help="Address to listen on; other than loopback needs a token.")] = DEFAULT_HOST,
    port: Annotated[int, typer.Option(min=1, max=65535)] = DEFAULT_PORT,
    home: Home = None,
    database: Database = None,
    models: Models = None,
    tasks: Tasks = None,
    hub_repository: Hub = None,
    ray_address: RayAddress = None,
    token: Annotated[
        str | None,
        typer.Option(envvar=TOKEN_VARIABLE, help="Token that may do everything, beside those of `mergefront token`."),
    ] = None,
    requests_per_second: Annotated[
        float, typer.Option(min=0.001, help="What one token, or one address, may ask in the long run.")
    ] = DEFAULT_REQUESTS_PER_SECOND,
    burst: Annotated[int, typer.Option(min=1, help="What one token, or one address, may ask at once.")] = DEFAULT_BURST,
    max_streams: Annotated[
        int, typer.Option(min=1, help="Weight files that are merged for clients at once.")
    ] = DEFAULT_MAX_STREAMS,
    worker: Annotated[bool, typer.Option(help="Run a worker beside the API.")] = True,
    log_format: LogFormatOption = "text",
) -> None:
    """Serve the API and the dashboard, with a worker that runs campaigns."""
    from mergefront.service import ServiceOptions, start_service

    options = ServiceOptions(
        host=host,
        port=port,
        home=home or default_home(),
        database_url=database,
        model_roots=tuple(models or ()),
        task_folders=tuple(tasks or ()),
        hub_repositories=tuple(hub_repository or ()),
        ray_address=ray_address,
        token=SecretStr(token) if token else None,
        requests_per_second=requests_per_second,
        burst=burst,
        max_streams=max_streams,
        with_worker=worker,
        log_format=log_format,
    )
    with readable_errors():
        start_service(options)


@app.command()
def worker(  # noqa: PLR0913  one argument per option
    home: Home = None,
    database: Database = None,
    tasks: Tasks = None,
    ray_address: RayAddress = None,
    log_format: LogFormatOption = "text",
    until_input_closes: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Run campaigns of a database until interrupted."""
    from mergefront.service import run_worker
    from optimizer.worker import WorkerSettings

    folder = (home or default_home()).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    settings = WorkerSettings(
        database_url=database or sqlite_url(folder),
        home=folder,
        task_folders=tuple(path.resolve() for path in tasks or ()),
        ray_address=ray_address,
    )
    with readable_errors():
        run_worker(settings, until_input_closes, log_format)


@app.command()
def launch(
    spec: Annotated[Path, typer.Argument(help="Campaign spec, YAML or JSON.", exists=True, dir_okay=False)],
    url: Url = DEFAULT_URL,
    token: Token = None,
    follow: Annotated[bool, typer.Option("--watch", help="Follow the campaign to its end.")] = False,
) -> None:
    """Launch a campaign and print its id."""
    from mergefront.documents import read_document
    from mergefront.watching import watch_campaign

    with readable_errors(), Client(url, token) as client:
        campaign = client.launch(read_document(spec))
        console.print(campaign["id"], highlight=False)
        if follow:
            watch_campaign(client, campaign["id"], console)


@app.command()
def watch(campaign: str, url: Url = DEFAULT_URL, token: Token = None) -> None:
    """Follow a campaign: trials, hypervolume, the best so far and the time left."""
    from mergefront.watching import watch_campaign

    with readable_errors(), Client(url, token) as client:
        watch_campaign(client, campaign, console)


@app.command()
def front(
    campaign: str,
    url: Url = DEFAULT_URL,
    token: Token = None,
    split: Annotated[
        Split | None, typer.Option(help="Items of the statistics; default: holdout once the front is scored there.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the API's documents as one.")] = False,
) -> None:
    """Print the Pareto front beside the baselines, and how far it can be believed."""
    from mergefront.statistics_table import remarks, statistics_table
    from mergefront.tables import front_table

    with readable_errors(), Client(url, token) as client:
        found, statistics = client.front(campaign), client.front_statistics(campaign, split)
        if as_json:
            console.print_json(data=found | {"statistics": statistics})
        else:
            console.print(front_table(found), statistics_table(statistics))
            for remark in remarks(found, statistics):
                console.print(remark, highlight=False, markup=False)


@app.command()
def pull(trial: str, directory: Path, url: Url = DEFAULT_URL, token: Token = None) -> None:
    """Download the merged checkpoint of TRIAL, an id or CAMPAIGN/best, into DIRECTORY; go on where it broke off."""
    from mergefront.progress import byte_progress

    with readable_errors(), Client(url, token) as client, byte_progress(console, f"pulling {trial}") as progress:
        client.pull(trial, directory, progress)
    console.print(str(directory), highlight=False)


@app.command()
def recipe(
    trial: str,
    url: Url = DEFAULT_URL,
    token: Token = None,
    form: Annotated[
        RecipeFormat, typer.Option("--format", help="Mergefront's own JSON, or a configuration for mergekit.")
    ] = "json",
) -> None:
    """Print what the merge of TRIAL is made of."""
    with readable_errors(), Client(url, token) as client:
        found = client.recipe(trial, form)
        print(found if isinstance(found, str) else json.dumps(found, indent=2))  # noqa: T201  a file, not prose


@app.command()
def merge(
    config: Annotated[Path, typer.Argument(help="Merge document: ours or mergekit's.", exists=True, dir_okay=False)],
    directory: Path,
    hub_repository: Hub = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of random methods, such as dare_ties; default: the document's, or 0.")
    ] = None,
) -> None:
    """Merge checkpoints once, without a service, into DIRECTORY."""
    from mergefront.merge_command import merge_directory
    from mergefront.progress import byte_progress

    with readable_errors(), byte_progress(console, "merging") as progress:
        merge_directory(config, directory, tuple(hub_repository or ()), progress, seed)
    console.print(str(directory), highlight=False)


@app.command()
def calibrate(  # noqa: PLR0913  one argument per option
    checkpoint: Annotated[Path, typer.Argument(help="Model directory with safetensors.", exists=True, file_okay=False)],
    texts: Annotated[
        Path, typer.Argument(help="Paragraphs of text, or JSON lines with a text field.", exists=True, dir_okay=False)
    ],
    directory: Annotated[
        Path | None, typer.Option(help="Where the file goes; default: calibration/ beside the checkpoint.")
    ] = None,
    gram: Annotated[bool, typer.Option("--gram", help="Gram matrices as well, for regmean: much memory.")] = False,
    fisher: Annotated[bool, typer.Option("--fisher", help="Fisher information as well, for fisher: slow.")] = False,
    sequences: Annotated[int, typer.Option(min=1)] = 128,
    sequence_length: Annotated[int, typer.Option(min=2, help="Tokens per sequence.")] = 512,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences at once; always one with fisher.")] = 4,
    dtype: Annotated[ComputeDtype, typer.Option(help="Type the model computes in.")] = "float32",
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, ...; default: cuda where there is one.")
    ] = None,
) -> None:
    """Gather what OBIM, RegMean and Fisher merging need to know of a checkpoint on a text; print the file's path."""
    from campaigns.methods import StatisticsKind
    from mergefront.calibrate_command import calibrate_checkpoint
    from merging.calibration import CalibrationSettings

    kinds: dict[StatisticsKind, bool] = {"gram_diagonal": True, "gram": gram, "fisher": fisher}
    settings = CalibrationSettings(
        kinds=tuple(kind for kind, wanted in kinds.items() if wanted),
        sequences=sequences,
        sequence_length=sequence_length,
        batch_size=batch_size,
        dtype=dtype,
    )
    with readable_errors():
        file = calibrate_checkpoint(checkpoint, texts, directory, settings, device, console)
    console.print(str(file), highlight=False, soft_wrap=True)


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for zoo, database, report and pulled model.")] = Path(
        "demo-output"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 picks a free one.")] = 0,
) -> None:
    """Make a small model zoo, search its merges, pull the best one: the main job, end to end."""
    from mergefront.demo import run_demo

    with readable_errors():
        run_demo(output, port, console)


lifecycle_commands.add_commands(app)
