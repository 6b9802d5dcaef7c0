"""Entry of the API process: `gunicorn -c python:api.gunicorn_conf 'api.wsgi:create()'`."""

from __future__ import annotations

from flask import Flask

from api.app import create_app
from shared.logs import configure_logs
from shared.settings import Settings

__all__ = ["create"]


def create() -> Flask:
    """The application with settings from the environment."""
    settings = Settings.from_env()
    configure_logs(settings)
    return create_app(settings)
