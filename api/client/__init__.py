"""Python client and command line. Talks HTTP; imports nothing of the server."""

from api.client.client import DreamqueueClient
from api.client.errors import ApiError, ClientError
from api.client.job import Event, Job

__all__ = ["ApiError", "ClientError", "DreamqueueClient", "Event", "Job"]
