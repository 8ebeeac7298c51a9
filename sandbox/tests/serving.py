"""Serve one sandbox service over HTTP, for tests that speak to it through a real boto3 client."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from moto.core.request import Request
from werkzeug.serving import WSGIRequestHandler, make_server

from buddy_sandbox.wire import Service

START = datetime(2026, 11, 22, 3, 0, tzinfo=UTC).timestamp()


@dataclass
class Crank:
    """A clock that stands still until a test turns it."""

    time: float = START

    def now(self) -> float:
        return self.time


class _Quiet(WSGIRequestHandler):
    def log_request(self, *_: Any) -> None:
        pass


@contextmanager
def client_of(service: Service) -> Iterator[Any]:
    """A boto3 client that speaks to ``service``, without retries."""

    def answer(environ: Any, start_response: Any) -> Iterable[bytes]:
        return service.call(*service.parse(Request(environ)))(environ, start_response)

    server = make_server("127.0.0.1", 0, answer, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield boto3.client(
            service.name,
            region_name="us-east-1",
            endpoint_url=f"http://127.0.0.1:{server.port}",
            aws_access_key_id="sandbox",
            aws_secret_access_key="sandbox",
            config=Config(retries={"total_max_attempts": 1}),
        )
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def refusal(call: Callable[..., Any], **params: Any) -> tuple[str, str]:
    """The code and the message that a call is refused with."""
    with pytest.raises(ClientError) as refused:
        call(**params)
    error = refused.value.response["Error"]
    return error["Code"], error["Message"]
