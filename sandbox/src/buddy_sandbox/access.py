"""Which requests the sandbox answers: those of programs of the user who started it, and never a web page's.

The sandbox runs the code that it is given. A browser lets any page send some requests to a loopback port, and after DNS
rebinding it takes the port for the page's own server. So Host and Origin must be the sandbox's own address, control
calls carry the token of the state file, and AWS calls a signature header, which no page can send without a preflight.
"""

import hmac
import json
import re

from werkzeug.wrappers import Request, Response

ACCOUNT = "123456789012"
"""The account of every key that is of no other one."""

CONTROL = "/_sandbox/"
"""Where the paths of control calls begin."""
TOKEN_HEADER = "X-Sandbox-Token"
REFUSAL_HEADER = "X-Sandbox-Refusal"
"""In the answer to a refused request: which of its parts is wrong."""

NAMES = ("127.0.0.1", "localhost", "[::1]")
"""The names of this machine's loopback address in a URL."""

CONTROL_LIMIT_BYTES = 1 << 20
AWS_LIMIT_BYTES = 256 << 20
"""The largest body of a request; a package of Lambda may have 50 MB, an object in S3 250 MB."""

_SIGNED = re.compile(r"AWS4-HMAC-SHA256\s+Credential=([^/\s]+)/\d+/([^/\s]+)/([^/\s]+)/aws4_request\b")


def signing_name(request: Request) -> str:
    """The service that a request's signature header names, or '' without one. The signature is not checked."""
    return _signed(request, 3)


def signing_region(request: Request) -> str:
    """The region that a request's signature header names, or '' without one."""
    return _signed(request, 2)


def access_key(request: Request) -> str:
    """The access key that a request's signature header names, or '' without one."""
    return _signed(request, 1)


def _signed(request: Request, part: int) -> str:
    match = _SIGNED.match(request.headers.get("Authorization", ""))
    return match[part] if match else ""


def without_sharing(reply: Response) -> Response:
    """A reply without the headers that would let other sites' pages read it; moto's servers send them."""
    for name in [name for name in reply.headers.keys() if name.lower().startswith("access-control-")]:  # noqa: SIM118
        del reply.headers[name]
    return reply


class Access:
    """The rules of one sandbox.

    Args:
        port: where it listens on loopback.
        token: what control calls must carry.
    """

    def __init__(self, port: int, token: str) -> None:
        self._hosts = {f"{name}:{port}" for name in NAMES}
        self._origins = {f"http://{host}" for host in self._hosts}
        self._token = token.encode()
        self._endpoint = f"http://127.0.0.1:{port}"

    def refuse(self, request: Request) -> Response | None:
        """The answer to a request that is not allowed, else None. Its body is not read."""
        control = request.path.startswith(CONTROL)
        if request.headers.get("Host", "").lower() not in self._hosts:
            return self._refusal(403, "host", f"The Host header is not this sandbox's. Use {self._endpoint}.")
        if request.method == "OPTIONS":
            return self._refusal(403, "preflight", "The sandbox answers no preflight: web pages may not call it.")
        origin = request.headers.get("Origin", self._endpoint)
        sent_from = request.headers.get("Sec-Fetch-Site", "none").lower()
        if origin.lower() not in self._origins or sent_from not in ("none", "same-origin"):
            return self._refusal(403, "origin", "Web pages may not call the sandbox.")
        return self._refuse_control(request) if control else self._refuse_aws(request)

    def read_body(self, request: Request) -> Response | None:
        """Read the body of an allowed request; the answer to one that is too large, else None."""
        limit = CONTROL_LIMIT_BYTES if request.path.startswith(CONTROL) else AWS_LIMIT_BYTES
        # A body without a declared length is cut off there: one byte more tells that it was.
        request.max_content_length = limit + 1
        if (request.content_length or 0) <= limit and len(request.get_data()) <= limit:
            return None
        return self._refusal(413, "size", f"The body of this request may have {limit:,} bytes at most.")

    def _refuse_control(self, request: Request) -> Response | None:
        if request.method != "POST":
            refused = self._refusal(405, "method", "Control calls are sent with POST.")
            refused.headers["Allow"] = "POST"
            return refused
        if not hmac.compare_digest(request.headers.get(TOKEN_HEADER, "").encode(), self._token):
            return self._refusal(403, "token", "The control call has not the token of this sandbox's state file.")
        return None

    def _refuse_aws(self, request: Request) -> Response | None:
        if "Origin" in request.headers:
            return self._refusal(403, "origin", "Web pages may not call the sandbox.")
        if not signing_name(request):
            says = "The request has no AWS signature (AWS4-HMAC-SHA256) in its Authorization header."
            return self._refusal(403, "signature", f"{says} Use an AWS SDK with any credentials.")
        if request.path.startswith("/moto-api"):
            return self._refusal(404, "path", "The sandbox has no such path.")
        return None

    def _refusal(self, status: int, part: str, says: str) -> Response:
        # Read by AWS's SDKs (message, x-amzn-ErrorType) and by clients of the control address (error).
        body = json.dumps({"error": says, "message": says, "__type": "SandboxRefused"})
        headers = {REFUSAL_HEADER: part, "x-amzn-ErrorType": "SandboxRefused"}
        return Response(body, status, headers, content_type="application/json")
