"""Structured logs: one JSON object a line, or readable lines for people. Prompts are never logged at info.

Bind what a line is about with `structlog.contextvars.bound_contextvars(job_id=..., kind=..., attempt=..., tenant=...,
request_id=...)`.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

from shared.settings import Settings

__all__ = ["configure_logs", "get_logger"]


def configure_logs(settings: Settings) -> None:
    """Set up structlog, and send the standard library's loggers (celery, gunicorn, boto) the same way."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    console = settings.log_format == "console"
    renderer: Any = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()) if console else _json()
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *([] if console else [structlog.processors.format_exc_info]),
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("botocore", "boto3", "urllib3", "kombu", "amqp", "PIL"):
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))


def _json() -> Any:
    return structlog.processors.JSONRenderer(ensure_ascii=False)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger; `name` is the module's."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger
