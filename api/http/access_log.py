"""One line per request, for who turns it on: the application's own rather than gunicorn's, so that it has the form of
all other lines and names the request."""

from __future__ import annotations

import time

from flask import Flask, Response, g, request

from shared.logs import get_logger

__all__ = ["install_access_log"]

log = get_logger("api.access")


def install_access_log(app: Flask) -> None:
    """Log each request when its answer has been sent, streams included. No query string and no body is logged."""

    @app.after_request
    def end(response: Response) -> Response:
        line = {
            "request_id": g.request_id,
            "method": request.method[:16],
            "path": request.path[:200],
            "status": response.status_code,
            "client": request.remote_addr,
        }
        began_at: float = g.began_at
        response.call_on_close(lambda: log.info("request", **line, seconds=round(time.perf_counter() - began_at, 6)))
        return response
