"""The AWS wire protocols, so that a sandbox service is a class with one method per operation.

Knows how to turn an HTTP request into (operation, parameters) and a result or an error back into HTTP, from botocore's
own service models through moto's parsers. Never knows what any operation does.
"""

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from botocore import xform_name
from moto.core.model import OperationModel
from moto.core.parse import PROTOCOL_PARSERS
from moto.core.request import Request
from moto.core.routing import get_service_router
from moto.core.serialize import SERIALIZERS
from moto.core.utils import get_service_model
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response

Params = dict[str, Any]


class AwsError(Exception):
    """An error as AWS answers it: ``code`` is the shape's name, ``members`` its further fields."""

    def __init__(self, code: str, message: str, *, status: int | None = None, **members: Any) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        for name, value in members.items():
            setattr(self, name, value)


@dataclass
class Throttle:
    """For how long a service throttles every call. ``for_s`` counts virtual seconds from when it is set."""

    until: float = 0.0

    @property
    def for_s(self) -> float:
        """Seconds that are left."""
        return max(0.0, self.until - time.time())

    @for_s.setter
    def for_s(self, seconds: float) -> None:
        self.until = time.time() + seconds

    def active(self) -> bool:
        """Whether a call that comes now is throttled."""
        return time.time() < self.until


@dataclass(frozen=True)
class Raw:
    """A result whose HTTP form the operation decides itself (Invoke's payload and headers)."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


def refusal(code: str, text: str, status: int, xml: bool) -> Response:
    """An error that any client of a JSON or an XML service reads."""
    if xml:
        parts = f"<Type>Sender</Type><Code>{code}</Code><Message>{text}</Message>"
        return Response(f"<ErrorResponse><Error>{parts}</Error></ErrorResponse>", status, content_type="text/xml")
    body = json.dumps({"__type": code, "message": text, "Message": text})
    return Response(body, status, {"x-amzn-ErrorType": code, "Content-Type": "application/x-amz-json-1.1"})


class Service:
    """One AWS service. A subclass sets ``name`` (botocore's) and writes ``update_alias(self, params) -> dict``.

    Parameters come with the model's own member names and Python types (timestamps are aware datetimes, blobs bytes);
    a result is a dict of the model's output members, without ResponseMetadata, or None where there is none.
    """

    name: str

    def __init__(self) -> None:
        self.model = get_service_model(self.name)
        self.protocol = "json" if "json" in self.model.metadata["protocols"] else "rest-json"
        self._router = get_service_router(self.name)

    def parse(self, request: Request) -> tuple[OperationModel, Params]:
        """The operation that a request names, with its parameters. Raises AwsError for one that does not exist."""
        uri_params: Mapping[str, Any] = {}
        if self.protocol == "json":
            operation = self.model.operation_model(request.headers["X-Amz-Target"].split(".")[-1])
        else:
            try:
                operation, uri_params = self._router.match(request)
            except NotFound as missing:
                raise AwsError("UnknownOperationException", f"{request.method} {request.path}", status=404) from missing
        parser = PROTOCOL_PARSERS[self.protocol](operation)
        fields = {
            "method": request.method,
            "values": request.values,
            "headers": request.headers,
            "body": request.data,
            "url_path": request.path,
            "url_params": uri_params,
        }
        return operation, parser.parse(fields)  # type: ignore[arg-type]

    def call(self, operation: OperationModel, params: Params) -> Response:
        """Run one parsed operation and answer in the service's protocol."""
        request_id = str(uuid.uuid4())
        method = getattr(self, xform_name(str(operation.name)), None)
        try:
            if method is None:
                message = f"the sandbox has no {self.name}:{operation.name}"
                raise AwsError("NotImplementedException", message, status=501)
            result = method(params)
        except AwsError as error:
            return self._answer(operation, error, request_id, error.status)
        if isinstance(result, Raw):
            return Response(result.body, result.status, {"x-amzn-RequestId": request_id, **result.headers})
        return self._answer(operation, result or {}, request_id, None)

    def _answer(self, operation: OperationModel, result: Any, request_id: str, status: int | None) -> Response:
        reply = SERIALIZERS[self.protocol](operation).serialize(result)
        headers = {**reply["headers"], "x-amzn-RequestId": request_id}
        return Response(reply["body"], status or reply["status_code"], headers)
