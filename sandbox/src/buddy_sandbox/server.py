"""The sandbox's process: one port that answers as AWS, and a control address beside it.

Knows which service a request is for. What we serve ourselves comes before moto's; under ``/_sandbox/`` the clock, the
scenarios and the call log are reached.
"""

import argparse
import json
import re
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from io import BytesIO
from typing import Any

from moto.core.request import Request
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from pydantic import ValidationError
from werkzeug.serving import BaseWSGIServer, make_server
from werkzeug.wrappers import Response

from buddy_sandbox import buckets, dynamodb, own_functions, roles, scenarios, state_file, topics
from buddy_sandbox.access import ACCOUNT, CONTROL, Access, access_key, signing_name, signing_region, without_sharing
from buddy_sandbox.chaos import METRICS, Chaos, Fault, forgetful
from buddy_sandbox.clock import exists
from buddy_sandbox.region import HOME, Region
from buddy_sandbox.runtime import OWN_KEY
from buddy_sandbox.wire import AwsError, Params, refusal
from buddy_sandbox.world import STEPPED_START, LiveTicker, World

EXPIRED = "The security token included in the request is expired"
MAX_SPEED = 10_000
"""The fastest clock, in virtual seconds for a real one."""

SIGNING_NAMES = {"monitoring": "cloudwatch"}
"""Services that sign under another name than botocore calls them."""


class Handler(MotoRequestHandler):
    """Keeps connections open, says nothing on the terminal, and gives replies the sandbox's time."""

    protocol_version = "HTTP/1.1"

    def log_request(self, *_: Any) -> None:
        """A call log is kept by the sandbox itself."""

    def date_time_string(self, timestamp: float | None = None) -> str:
        now = self.server.app.world.clock.now()  # type: ignore[attr-defined]
        return str(super().date_time_string(now if timestamp is None else timestamp))


class Front:
    """The WSGI application."""

    def __init__(self, world: World, access: Access, stop: Callable[[], None]) -> None:
        self.world = world
        self._access = access
        self._stop = stop
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._moto_lock = threading.Lock()
        self.chaos = Chaos()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        request = Request(environ)
        reply: Any = self._access.refuse(request) or self._access.read_body(request)
        if reply is None:
            # moto reads the request again.
            environ["wsgi.input"] = BytesIO(request.get_data())
            reply = self._answer(request)
        return reply(environ, start_response)  # type: ignore[no-any-return]

    def _answer(self, request: Request) -> Any:
        """The answer to a request that is allowed, a WSGI application."""
        if request.path.startswith(CONTROL):
            return self._control(request)
        service = self._service(request)
        if (kind := self._region(request).conditions.unreachable) and not self._is_own(request):
            self.chaos.drop(kind, request.environ["werkzeug.socket"])
        fault = self.chaos.strikes(request, lambda: self._operation(service, request))
        return self._ask(service, request) if fault is None else self._fail(fault, service, request)

    # AWS

    def _ask(self, service: str, request: Request) -> Any:
        """The answer, a WSGI application."""
        xml = service == "s3" or "form" in request.headers.get("Content-Type", "")
        by = self._caller(request)
        if by.expired:
            return refusal("ExpiredToken" if xml else "ExpiredTokenException", EXPIRED, 403, xml)
        if said := roles.denied(by, request, service, lambda: self._operation(service, request)):
            return refusal("AccessDenied" if xml else "AccessDeniedException", said, 403, xml)
        own = service in self._region(request).services
        return self._ask_own(service, request) if own else self._ask_moto(service, request)

    def _fail(self, fault: Fault, service: str, request: Request) -> Any:
        """The answer to a call that a fault strikes. Raises ConnectionError where there is none."""
        if fault.kind in METRICS:
            with forgetful(self._region(request), fault.kind):
                return self._ask(service, request)
        if fault.after:
            self._ask(service, request)
        return self.chaos.answer(fault, service, request, request.environ["werkzeug.socket"])

    def _service(self, request: Request) -> str:
        name = signing_name(request)
        return SIGNING_NAMES.get(name, name)

    def _region(self, request: Request) -> Region:
        """The region that a request is signed for, in its caller's account."""
        return self.world.region(signing_region(request), self._caller(request).account)

    def _is_own(self, request: Request) -> bool:
        """Whether a schedule, an alarm or a function calls, from within AWS."""
        return access_key(request).startswith(OWN_KEY) or "app/sandbox" in request.headers.get("User-Agent", "")

    def _caller(self, request: Request) -> roles.Caller:
        return roles.caller(access_key(request))

    def _ask_own(self, name: str, request: Request) -> Response:
        service = self._region(request).services[name]
        try:
            operation, params = service.parse(request)
            roles.check_account(self._caller(request), name, str(operation.name), params)
        except AwsError as error:
            body = json.dumps({"message": error.message})
            return Response(body, error.status or 400, {"x-amzn-ErrorType": error.code})
        reply = service.call(operation, params)
        self._log(request, name, str(operation.name), params, reply)
        return reply

    def _ask_moto(self, service: str, request: Request) -> Response:
        if (said := self._denied(service, request)) is not None:
            return said
        request.environ["HTTP_X_MOTO_ACCOUNT_ID"] = self._caller(request).account
        # moto is not thread-safe.
        with self._moto_lock:
            try:
                self._check(service, request)
                reply = without_sharing(Response.from_app(self._moto, request.environ))
            except AwsError as error:
                reply = refusal(error.code, error.message, error.status or 400, xml=service in ("s3", "sns", "sts"))
            except NotImplementedError:
                missing = f"the sandbox has no {service}:{self._operation(service, request)}"
                xml = "form" in request.headers.get("Content-Type", "")
                reply = refusal("NotImplementedException", missing, 501, xml)
        self._log(request, service, self._operation(service, request), {}, None)
        return reply

    def _check(self, service: str, request: Request) -> None:
        """Raise AwsError where AWS would refuse what moto takes."""
        by, region, operation = self._caller(request), signing_region(request), self._operation(service, request)
        json_body = service in ("dynamodb", "ssm")
        fields: Params = json.loads(request.get_data() or b"{}") if json_body else dict(request.form)
        roles.check_account(by, service, operation, fields)
        if service == "s3":
            buckets.check(request)
        elif service == "sns":
            topics.check(fields, region, by.account)
        elif operation == "AssumeRole":
            roles.check_assumption(by, fields["RoleArn"])
        elif service == "dynamodb":
            self.world.tables.check(operation, fields, region, by.account)
        elif service == "ssm":
            self.world.parameters.check(operation, fields)

    def _denied(self, service: str, request: Request) -> Response | None:
        """The refusal of a function's own call that a table's resource policy denies its role; else None."""
        own, _, function = access_key(request).removeprefix(OWN_KEY).partition(".")
        if service != "dynamodb" or not function:
            return None
        region = self._region(request)
        role = region.functions.get_function_configuration({"FunctionName": function})["Role"]
        said = dynamodb.denied(self._operation(service, request), request.get_data(), role, region.name, own)
        body = {"__type": "com.amazon.coral.service#AccessDeniedException", "Message": said}
        return Response(json.dumps(body), 400, content_type="application/x-amz-json-1.0") if said else None

    def _operation(self, service: str, request: Request) -> str:
        own = self._region(request).services
        if service in own:
            with suppress(AwsError):
                return str(own[service].parse(request)[0].name)
        target = request.headers.get("X-Amz-Target", "").split(".")[-1]
        return str(target or request.form.get("Action") or f"{request.method} {request.path}")

    def _log(self, request: Request, service: str, operation: str, params: Params, reply: Response | None) -> None:
        agent = request.headers.get("User-Agent", "")
        app = re.search(r"app/(\S+)", agent)
        shown = {key: value for key, value in params.items() if isinstance(value, (str, int, float, bool, dict))}
        self.world.calls.append(
            {
                "at": self.world.clock.utc().isoformat(),
                "account": self._caller(request).account,
                "region": signing_region(request),
                "service": service,
                "operation": operation,
                "params": json.loads(json.dumps(shown, default=str)),
                "status": reply.status_code if reply is not None else None,
                "error": reply.headers.get("x-amzn-errortype") if reply is not None else None,
                "app": app.group(1) if app else "",
            }
        )

    # Control

    def _control(self, request: Request) -> Response:
        name = request.path.removeprefix(CONTROL).replace("/", "_")
        action = getattr(self, f"do_{name}", None)
        if action is None:
            return Response(json.dumps({"error": f"no such control: {name}"}), 404, content_type="application/json")
        try:
            fields = json.loads(request.get_data() or b"{}")
            if not isinstance(fields, dict):
                raise ValueError("the body is no JSON object")
            answer, status = action(**fields), 200
        except ValidationError as error:
            answer, status = {"error": "; ".join(map(_explain, error.errors()))}, 400
        except (TypeError, ValueError, KeyError, RecursionError) as error:
            answer, status = {"error": f"{type(error).__name__}: {error}"}, 400
        reply = Response(json.dumps(answer), status, content_type="application/json")
        if name == "stop" and status == 200:
            # Not before the reply was written: the process, and with it this thread, may end at once.
            reply.call_on_close(threading.Thread(target=self._stop, daemon=True).start)
        return reply

    def do_status(self) -> dict[str, Any]:
        """Who answers here, and what time it is."""
        clock = self.world.clock
        return {
            "sandbox": True,
            "now": clock.now(),
            "time": clock.utc().isoformat(),
            "speed": clock.speed,
            "seed": self.world.seed,
            "waiting": len(clock.clients),
            "calls": len(self.world.calls),
            "conditions": self.world.conditions_of(self.world.region(HOME)),
            "traffic": scenarios.describe(self.world),
            "functions": own_functions.describe(self.world),
        }

    def do_clock(self) -> dict[str, Any]:
        """The time, and what the clock of a client's machine says, epoch seconds."""
        now = self.world.clock.now()
        return {"now": now, "machine": now + self.world.conditions.client_clock_ahead_s}

    def do_clock_wait(self, client: str, pid: int, until: float, patience_s: float) -> dict[str, Any]:
        """Wait until a moment, for some real seconds at most."""
        reached = self.world.clock.wait(client, pid, until, min(patience_s, 30.0))
        return {"reached": reached, **self.do_clock()}

    def do_clock_leave(self, client: str) -> dict[str, Any]:
        """Forget a client of the clock."""
        self.world.clock.leave(client)
        return {}

    def do_advance(self, seconds: float) -> dict[str, Any]:
        """Let this much time pass now, even while clients wait."""
        self.world.clock.advance_to(self.world.clock.now() + float(seconds))
        return self.do_clock()

    def do_scenario(
        self, name: str, environment: str = "sandbox", seed: int | None = None, overrides: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Reset everything and set a scenario up. ``overrides`` replace fields of its file."""
        scenario = scenarios.read(name)
        scenario = scenarios.Scenario.model_validate({**scenario.model_dump(), **(overrides or {})})
        self.do_reset(seed)
        scenarios.set_up(self.world, scenario, environment)
        return self.do_status()

    def do_function(self, **fields: Any) -> dict[str, Any]:
        """Deploy a function of the user's own (see ``own_functions.OwnFunction``), and let people use it."""
        own_functions.deploy(self.world, own_functions.OwnFunction.model_validate(fields))
        return self.do_status()

    def do_functions(self, **fields: Any) -> dict[str, Any]:
        """Make many functions at once (see ``own_functions.Many``), whose traffic is drawn when it is read."""
        own_functions.make_many(self.world, own_functions.Many.model_validate(fields))
        return self.do_clock()

    def do_reset(self, seed: int | None = None) -> dict[str, Any]:
        """An empty account; stepped time begins again."""
        start = STEPPED_START if self.world.clock.speed == 0 else None
        with self._moto_lock:
            reset_moto()
        self.chaos.order(None)
        self.world.reset(seed, start)
        return self.do_status()

    def do_chaos(self, kind: str | None = None, **fields: Any) -> dict[str, Any]:
        """Order a fault (see ``chaos.Fault``), or none, and count our calls again; how it went before."""
        told = {"seen": self.chaos.seen, "struck": self.chaos.struck}
        self.chaos.order(None if kind is None else Fault(kind, **fields))
        return told

    def do_chaos_seen(self) -> dict[str, Any]:
        """How many of our calls came since the order, and how many were struck."""
        return {"seen": self.chaos.seen, "struck": self.chaos.struck}

    def do_calls(self, since: int = 0) -> dict[str, Any]:
        """The AWS calls that were answered, from the ``since``-th on."""
        return {"calls": self.world.calls[since:]}

    def do_set(
        self,
        speed: float | None = None,
        function: str | None = None,
        region: str | None = None,
        account: str | None = None,
        **changes: Any,
    ) -> dict[str, Any]:
        """Change the clock's speed, or any of the conditions (see ``conditions.Conditions``).

        Of one region, of one account, or everywhere; with a function's name only its requests_per_minute.
        """
        if function is not None:
            self._set_traffic(function, region, account, **changes)
            return self.do_status()
        if "requests_per_minute" in changes and not any(each.people.traffic for each in self.world.regions):
            raise ValueError("requests_per_minute cannot be set: no scenario is loaded")
        if region is not None or account is not None:
            return self._set_conditions_of(region, account, speed, changes)
        # All are checked before any takes effect.
        self.world.conditions.changed(changes)
        if speed is not None and not 0 <= float(speed) <= MAX_SPEED:
            raise ValueError(f"speed: {speed} is not between 0 and {MAX_SPEED}")
        if speed is not None:
            self.world.clock.speed = float(speed)
        self.world.set_conditions(changes)
        if "unreachable" in changes:
            self.chaos.lift()
        return self.do_status()

    def _set_conditions_of(
        self, region: str | None, account: str | None, speed: float | None, changes: dict[str, Any]
    ) -> dict[str, Any]:
        """Change conditions of one region, of one account or both; the answer has those that hold there."""
        if speed is not None:
            raise ValueError("speed: the same in every region and account")
        there = self.world.region(region or HOME, account or ACCOUNT)
        self.world.set_conditions_of(region, account, changes)
        if "unreachable" in changes:
            self.chaos.lift()
        return self.do_status() | {"conditions": self.world.conditions_of(there)}

    def _set_traffic(self, function: str, region: str | None, account: str | None, requests_per_minute: float) -> None:
        """Change one function's traffic."""
        rate = self.world.conditions.changed({"requests_per_minute": requests_per_minute}).requests_per_minute
        people = [each.people for each in self.world.chosen(region, account)]
        chosen = [traffic for each in people for traffic in each.traffic if traffic.function == function]
        if not chosen:
            raise ValueError(f"no function {function} has traffic")
        for each in chosen:
            each.requests_per_minute = rate

    def do_stop(self) -> dict[str, Any]:
        """End the process once this is answered: see ``_control``."""
        return {"stopping": True}


def _explain(wrong: Mapping[str, Any]) -> str:
    """One of pydantic's findings in a line: which value, and what is wrong with it."""
    name = ".".join(map(str, wrong["loc"]))
    return f"{name} is no value that can be set" if wrong["type"] == "extra_forbidden" else f"{name}: {wrong['msg']}"


def reset_moto() -> None:
    """Forget what moto keeps of every service."""
    from moto.core.base_backend import BackendDict

    instances: list[Any] = BackendDict._instances  # type: ignore[misc]
    for backend in list(instances):
        backend.reset()


class Sandbox:
    """A sandbox on a loopback port, served by a thread of this process.

    Args:
        port: 0 takes a free one.

    Raises:
        OSError: the port is taken.
        NoStateFolder: there is no private folder for the token of control calls.
    """

    def __init__(self, port: int = 0, *, seed: int = 7, speed: float = 0.0, start: float | None = None) -> None:
        with socket.socket() as probe:
            # werkzeug itself would end the process with a page of its own.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            port = probe.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{port}"
        begin = start if start is not None else (time.time() if speed else STEPPED_START)
        self.token = secrets.token_urlsafe(32)
        self.world = World(self.endpoint, seed, speed, begin)
        self.front = Front(self.world, Access(port, self.token), self.close)
        self.server: BaseWSGIServer = make_server("127.0.0.1", port, self.front, threaded=True, request_handler=Handler)
        self.server.daemon_threads = True  # type: ignore[attr-defined]
        # The port is ours from here on, and so is the file that is named after it.
        self._state_file = state_file.write(port, self.token)
        self.world.show = state_file.ClockFile(self._state_file).show
        self.world.show_time()
        # How long its end waits, in seconds: half a second by default, for each sandbox that a test starts.
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self._ticker = LiveTicker(self.world)
        self.closed = threading.Event()

    def close(self) -> None:
        """Stop serving, and everything that was started."""
        self._ticker.close()
        self.server.shutdown()
        # Before its port is free: who finds it free finds no file of it.
        state_file.remove(self._state_file, self.token)
        self.server.server_close()
        self.world.close()
        self.closed.set()


def main() -> None:
    """Serve until the process is stopped."""
    parser = argparse.ArgumentParser(prog="buddy-sandbox", description="An AWS emulator on a loopback port.")
    parser.add_argument("--port", type=int, default=0, help="default: a free port, printed as JSON")
    parser.add_argument("--seed", type=int, default=7, help="random seed of the traffic")
    parser.add_argument("--speed", type=float, default=0.0, help="clock speed (10 = 10x real time); 0: stepped")
    parser.add_argument("--owner", type=int, help="end when the process with this id does")
    options = parser.parse_args()
    if not 0 <= options.speed <= MAX_SPEED:
        parser.error(f"--speed is {options.speed}, and not between 0 and {MAX_SPEED}")
    try:
        sandbox = Sandbox(options.port, seed=options.seed, speed=options.speed)
    except OSError as error:
        sys.exit(f"port-taken: cannot listen on 127.0.0.1:{options.port}: {error}")
    except state_file.NoStateFolder as error:
        sys.exit(str(error))
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=sandbox.close, daemon=True).start())
    print(json.dumps({"endpoint": sandbox.endpoint}), flush=True)
    while not sandbox.closed.wait(1.0):
        if options.owner is not None and not exists(options.owner):
            sandbox.close()


if __name__ == "__main__":
    main()
