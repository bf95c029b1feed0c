"""The log of a service or worker: for people, or one JSON object per line for machines."""

import json
import logging
import sys
import warnings
from datetime import UTC, datetime
from typing import Literal

from campaigns.log_context import present_log_fields

LogFormat = Literal["text", "json"]
SUBJECTS = ("request_id", "campaign_id", "trial_id")
FIELDS = (*SUBJECTS, "status", "seconds", "caller")
"""What a line may say beside its message: set around it with `log_fields`, or with it as `extra`."""
LEVELS: dict[LogFormat, int] = {"text": logging.WARNING, "json": logging.INFO}
"""People are told what is wrong; machines, what happens as well, each request among it."""


def set_up_logs(log_format: LogFormat) -> None:
    """Send what this process logs to standard error in this format, in place of what was set up before."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if log_format == "json" else TextLines())
    logging.basicConfig(level=LEVELS[log_format], handlers=[handler], force=True)
    for chatty in ("httpx", "httpcore", "alembic", "filelock"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    if log_format == "json":
        warnings.simplefilter("default")
        logging.captureWarnings(True)


def take_over_loggers() -> None:
    """Let libraries that write lines of their own, Ray for one, log as everybody does. To be called once they began."""
    for logger in list(logging.root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):
            logger.handlers.clear()
            logger.propagate = True


class JsonLines(logging.Formatter):
    """One JSON object per line: time (UTC), level, logger, message, and which request, campaign and trial it is of."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line. What JSON has no way to say is written as Python shows it."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=repr)


class TextLines(logging.Formatter):
    """Time, level, message, and whose it is unless the message says so."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s%(subjects)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and the traceback of an error below it."""
        message = record.getMessage()
        subjects = {name: value for name, value in fields_of(record).items() if name in SUBJECTS}
        unsaid = " ".join(f"{name}={value}" for name, value in subjects.items() if str(value) not in message)
        record.subjects = f" ({unsaid})" if unsaid else ""
        return super().format(record)


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """Return the fields that are known of a line, its own before those around it."""
    own = {name: getattr(record, name) for name in FIELDS if getattr(record, name, None) is not None}
    return {**present_log_fields(), **own}
