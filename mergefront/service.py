"""`mergefront serve`: the API in this process, a worker beside it that is started again whenever it dies."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

import psutil
import uvicorn
from pydantic import Field, SecretStr, ValidationError

from api import Settings, create_app
from campaigns.errors import InvalidInput, from_validation
from campaigns.noun import Noun
from mergefront.settings import (
    DATABASE_VARIABLE,
    DEFAULT_BURST,
    DEFAULT_HOST,
    DEFAULT_MAX_STREAMS,
    DEFAULT_PORT,
    DEFAULT_REQUESTS_PER_SECOND,
    TOKEN_VARIABLE,
    sqlite_url,
)
from mergefront.slow_headers import PunctualProtocol
from mergefront.structured_logs import LogFormat, set_up_logs, take_over_loggers
from optimizer.worker import WorkerProcess, WorkerSettings

POLL_SECONDS = 0.2
RESTART_SECONDS = 2.0
STOP_SECONDS = 15.0
GRACE_SECONDS = 3  # an event stream that nobody closes must not keep the service from ending

logger = logging.getLogger(__name__)


class WorkerSupervisor:
    """Keeps one worker process alive.

    The worker's standard input is a pipe from this process: when this process ends, however it ends, the pipe closes
    and the worker ends too, so that a service that was killed leaves no orphan that holds its campaigns.
    """

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._command = [sys.executable, "-m", "mergefront", "worker", "--until-input-closes", *arguments]
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep_alive, name="worker-supervisor", daemon=True)

    def start(self) -> None:
        """Start the worker and the thread that watches it."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the worker to end and wait for it."""
        self._stopping.set()
        self._thread.join()

    def _keep_alive(self) -> None:
        while not self._stopping.is_set():
            with subprocess.Popen(
                self._command, stdin=subprocess.PIPE, start_new_session=True, env=self._environment
            ) as worker:
                self._wait(worker)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(worker.pid, signal.SIGKILL)  # what Ray leaves of a worker that was killed
            if not self._stopping.wait(RESTART_SECONDS):
                logger.warning("the worker ended with code %s; starting another", worker.returncode)

    def _wait(self, worker: subprocess.Popen[bytes]) -> None:
        while worker.poll() is None:
            if self._stopping.wait(POLL_SECONDS):
                worker.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    worker.wait(STOP_SECONDS)
                return


class ServiceOptions(Noun):
    """What `mergefront serve` was told. Without `database_url` the database lies in `home`."""

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    home: Path
    database_url: str | None = Field(None, repr=False)
    model_roots: tuple[Path, ...] = ()
    task_folders: tuple[Path, ...] = ()
    hub_repositories: tuple[str, ...] = ()
    ray_address: str | None = None
    token: SecretStr | None = None
    requests_per_second: float = DEFAULT_REQUESTS_PER_SECOND
    burst: int = DEFAULT_BURST
    max_streams: int = DEFAULT_MAX_STREAMS
    with_worker: bool = True
    log_format: LogFormat = "text"


def start_service(options: ServiceOptions) -> None:
    """Serve until interrupted. Raises `InvalidInput` for settings that are wrong or unsafe."""
    set_up_logs(options.log_format)
    home = options.home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    database_url = options.database_url or sqlite_url(home)
    try:
        settings = Settings(
            database_url=database_url,
            home=home,
            model_roots=tuple(root.resolve() for root in options.model_roots),
            hub_repositories=options.hub_repositories,
            host=options.host,
            port=options.port,
            token=options.token,
            requests_per_second=options.requests_per_second,
            burst=options.burst,
            max_streams=options.max_streams,
        )
    except ValidationError as error:
        raise from_validation(error, kind=InvalidInput) from None
    application = create_app(settings)
    server = uvicorn.Server(
        uvicorn.Config(
            application,
            host=options.host,
            port=options.port,
            http=PunctualProtocol,
            ws="none",
            server_header=False,
            access_log=False,  # it would print queries, where people put secrets by mistake; `api.request_log` does not
            log_config=None,
            log_level="warning",
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
    )
    supervisor = None
    if options.with_worker:
        supervisor = WorkerSupervisor(worker_arguments(options, home), worker_environment(database_url))
    signal.signal(signal.SIGTERM, _exit)  # uvicorn raises the signal again once it has shut down
    if supervisor is not None:
        supervisor.start()
    try:
        server.run()
    finally:
        if supervisor is not None:
            supervisor.stop()


def _exit(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def worker_environment(database_url: str) -> dict[str, str]:
    """Return the environment of the worker that goes with the service.

    The URL, which may hold a password, is kept out of the list of processes, and the token out of the worker.
    """
    environment = {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}
    return environment | {DATABASE_VARIABLE: database_url}


def worker_arguments(options: ServiceOptions, home: Path) -> list[str]:
    """Return the command line of the worker that goes with the service."""
    arguments = ["--home", str(home), "--log-format", options.log_format]
    for folder in options.task_folders:
        arguments += ["--tasks", str(folder.resolve())]
    if options.ray_address is not None:
        arguments += ["--ray-address", options.ray_address]
    return arguments


def run_worker(settings: WorkerSettings, until_input_closes: bool, log_format: LogFormat = "text") -> None:
    """Run a worker until SIGTERM, SIGINT or, if asked for, the end of standard input."""
    set_up_logs(log_format)
    worker = WorkerProcess(settings)

    def stop(_signal: int, _frame: FrameType | None) -> None:
        worker.stop()

    if until_input_closes:
        threading.Thread(target=_die_with_input, daemon=True).start()
    worker.start()
    take_over_loggers()
    signal.signal(signal.SIGTERM, stop)  # only now: Ray sets a handler of its own when it starts
    signal.signal(signal.SIGINT, stop)
    worker.run()


def _die_with_input() -> None:
    """Wait for the parent to end, then end at once, Ray's processes first: they outlive their driver by minutes."""
    while os.read(sys.stdin.fileno(), 4096):  # not through the buffer, whose lock would abort a graceful end
        pass
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    os._exit(1)
