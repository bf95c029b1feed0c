"""The log in both formats: what its lines say, and that JSON lines are JSON."""

import contextvars
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from campaigns.log_context import log_fields
from mergefront.structured_logs import JsonLines, TextLines, set_up_logs, take_over_loggers


@pytest.fixture
def logged(capsys: pytest.CaptureFixture[str]) -> Iterator[pytest.CaptureFixture[str]]:
    """What is written to standard error; logging is afterwards as it was."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    kept_warnings = warnings.filters[:]
    yield capsys
    logging.captureWarnings(False)
    warnings.filters[:] = kept_warnings
    root.handlers[:], level = before
    root.setLevel(level)


def lines(logged: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in logged.readouterr().err.splitlines()]


def test_every_json_line_is_an_object(logged: pytest.CaptureFixture[str]) -> None:
    set_up_logs("json")
    log = logging.getLogger("some.where")
    log.info("took %d s\nor so", 3)
    log.debug("too much")
    with log_fields(campaign_id="abc", request_id="r"):
        log.warning("hm", extra={"trial_id": "abc-1", "seconds": 0.25})
        with log_fields(trial_id="abc-2"):
            log.info("nested")
    try:
        raise ValueError("no good")
    except ValueError:
        log.exception("broken", extra={"campaign_id": None})
    first, second, third, last = lines(logged)
    assert {name: first[name] for name in ("level", "logger", "message")} == {
        "level": "info",
        "logger": "some.where",
        "message": "took 3 s\nor so",
    }
    assert abs((datetime.now(UTC) - datetime.fromisoformat(str(first["time"]))).total_seconds()) < 60
    assert (second["level"], second["campaign_id"], second["trial_id"]) == ("warning", "abc", "abc-1")
    assert (second["request_id"], second["seconds"]) == ("r", 0.25)
    assert (third["campaign_id"], third["trial_id"]) == ("abc", "abc-2")
    assert "campaign_id" not in last
    assert str(last["exception"]).endswith("ValueError: no good")


def test_text_says_what_is_wrong_and_whose_it_is(logged: pytest.CaptureFixture[str]) -> None:
    set_up_logs("text")
    log = logging.getLogger("some.where")
    log.info("all is well")
    with log_fields(campaign_id="abc", trial_id="abc-1"):
        log.warning("trial abc-1 is odd", extra={"status": 200})
        log.error("odd")
    first, second = logged.readouterr().err.splitlines()
    assert first.endswith("WARNING trial abc-1 is odd")  # which names the campaign, too
    assert second.endswith("ERROR odd (campaign_id=abc trial_id=abc-1)")


def test_fields_end_with_their_block_and_stay_in_their_task() -> None:
    record = logging.makeLogRecord({"msg": "x"})
    other = contextvars.copy_context()
    with log_fields(campaign_id="abc"):
        assert json.loads(JsonLines().format(record))["campaign_id"] == "abc"
        assert "campaign_id" not in json.loads(other.run(JsonLines().format, record))
    assert "campaign_id" not in json.loads(JsonLines().format(record))
    assert TextLines().format(record).endswith(" x")


def test_warnings_and_loggers_of_libraries_become_lines_too(logged: pytest.CaptureFixture[str]) -> None:
    set_up_logs("json")
    library = logging.getLogger("a_library_with_a_handler")
    library.addHandler(logging.StreamHandler(sys.stderr))
    library.propagate = False
    take_over_loggers()
    library.warning("from a library")
    warnings.warn("an old name", DeprecationWarning, stacklevel=1)
    first, second = lines(logged)
    assert first["message"] == "from a library"
    assert "an old name" in str(second["message"])


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_the_commands_take_a_format(command: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "mergefront", command, "--log-format", "yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert "text" in result.stderr and "json" in result.stderr
