"""Real processes: the service as a user starts it, on a small zoo and a free port."""

import os
import signal
import subprocess
import time

import psutil
import pytest

from mergefront.client import Client
from mergefront.demo import free_port, serve_command

READY_SECONDS = 120


def wait_for(condition, seconds=120.0, what="the condition"):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not come true in {seconds} s"
        time.sleep(0.05)
    return found


@pytest.fixture(name="wait_for")
def _wait_for():
    return wait_for


@pytest.fixture
def spec(zoo_module, zoo):
    document = zoo_module.campaign_spec(zoo)
    document["evaluation"] = {"search_items": 10, "holdout_items": 20, "batch_size": 8}
    document["budget"] = {"evaluations": 12}
    return document


class ServiceProcess:
    """`mergefront serve`, with everything it started."""

    def __init__(self, folder, zoo):
        self._folder, self._zoo, self._port = folder, zoo, free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.process = None

    def start(self):
        log = (self._folder / "service.log").open("ab")
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        command = serve_command(self._folder, self._zoo, self._port)
        self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        log.close()
        with Client(self.url) as client:
            wait_for(lambda: self.process.poll() is not None or client.is_ready(), READY_SECONDS, "the service")
        assert self.process.poll() is None, (self._folder / "service.log").read_text()[-3000:]

    def kill(self):
        """kill -9 the service alone; return once everything it had started is gone too."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        _, alive = psutil.wait_procs(family, timeout=60)
        assert not alive, f"orphans of the killed service: {alive}"

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)
            log = (self._folder / "service.log").read_text()
            assert self.process.returncode == 0
            assert "Fatal Python error" not in log
            assert "SIGTERM received" not in log


@pytest.fixture(scope="module")
def service(tmp_path_factory, zoo):
    """One service for the tests of a module; each launches campaigns of its own."""
    running = ServiceProcess(tmp_path_factory.mktemp("service"), zoo)
    running.start()
    yield running
    running.stop()


@pytest.fixture
def client(service):
    with Client(service.url) as opened:
        yield opened
