"""Lambda's stored things and the rules about them: functions, versions, aliases, their names and their limits.

Knows what may stand beside what, and what a read shows at a given instant. Never speaks HTTP, and runs no code.
"""

import base64
import hashlib
import io
import json
import re
import shutil
import uuid
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from buddy_sandbox import builds
from buddy_sandbox.faults import FaultProfile
from buddy_sandbox.log_lines import LogConfig
from buddy_sandbox.runtime import NODE
from buddy_sandbox.wire import AwsError, Params

LATEST = "$LATEST"
CONFIGURABLE = {"Architectures", "DeadLetterConfig", "Description", "Environment", "EphemeralStorage", "Handler"} | {
    *("KMSKeyArn", "LoggingConfig", "MemorySize", "Role", "Runtime", "SnapStart", "Timeout", "TracingConfig")
}
"""The members of a configuration that this Lambda keeps; it refuses others rather than losing them silently."""

_ENVIRONMENT_LIMIT = 4096
_PAGE = 50
_ARN = r"(?:arn:aws:lambda:(?P<region>[^:]+):)?(?:(?P<account>\d{12}):)?function:"
_NAME = re.compile(rf"(?:{_ARN})?(?P<name>[\w-]+)(?::(?P<qualifier>.+))?")


@dataclass(frozen=True)
class Routing:
    """Where an alias sends its requests: ``weight`` (0..1) of them to ``second``, the rest to ``primary``."""

    primary: str
    second: str | None
    weight: float
    revision: str
    reserved_concurrency: int | None


def pick(routing: Routing, u: float) -> str:
    """The version that a request with the uniform draw ``u`` goes to."""
    return routing.second if routing.second is not None and u < routing.weight else routing.primary


@dataclass(frozen=True)
class VersionConfig:
    """What simulated traffic needs to know of a version's configuration."""

    timeout_s: int
    memory_mb: int
    log: LogConfig


@dataclass(frozen=True)
class Code:
    """A deployment package. ``profile`` is None where the zip carries none."""

    zipped: bytes
    sha256: str
    profile: FaultProfile | None

    @classmethod
    def of(cls, zipped: bytes, unzipped_limit: int) -> "Code":
        """Check a package as Lambda does on upload; ``unzipped_limit`` is in bytes."""
        try:
            with zipfile.ZipFile(io.BytesIO(zipped)) as archive:
                unzipped = sum(entry.file_size for entry in archive.infolist())
                if unzipped <= unzipped_limit and archive.testzip() is not None:
                    raise zipfile.BadZipFile("a file's checksum is wrong")
            profile = builds.find_profile(zipped)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, UnicodeError):
            raise invalid("Could not unzip uploaded file. Please check your file, then try to upload again.") from None
        except ValueError as error:
            raise invalid(f"{builds.PROFILE_FILE}: {error}") from None
        if unzipped > unzipped_limit:
            raise invalid(f"Unzipped size must be smaller than {unzipped_limit} bytes")
        return cls(zipped, base64.b64encode(hashlib.sha256(zipped).digest()).decode(), profile)


def new_revision() -> str:
    """A RevisionId."""
    return str(uuid.uuid4())


@dataclass
class Version:
    """$LATEST or a published version. It settles at ``settles_at``: from Pending, or from an update InProgress.

    It takes ``settled_revision`` on then. A version that is Active at once has it from the start (recorded on AWS).
    """

    number: str
    config: dict[str, Any]
    code: Code
    modified: float
    settles_at: float
    pending: bool = True
    revision: str = field(default_factory=new_revision)
    settled_revision: str = field(default_factory=new_revision)
    published_from: str = ""
    first_request_at: float | None = None

    def fingerprint(self) -> str:
        """What must differ for a publish to make a new version: code and configuration, Description included."""
        return _sha256([self.code.sha256, self.config])

    def revision_at(self, now: float) -> str:
        """The RevisionId that a read at ``now`` shows."""
        return self.settled_revision if now >= self.settles_at else self.revision

    def snap_start(self) -> str:
        """SnapStart's ApplyOn: 'None' or 'PublishedVersions'."""
        return str(self.config.get("SnapStart", {}).get("ApplyOn", "None"))

    def _optimization(self, now: float) -> str:
        """'On' for a published version whose snapshot is ready; $LATEST has none."""
        ready = self.number != LATEST and now >= self.settles_at
        return "On" if ready and self.snap_start() == "PublishedVersions" else "Off"

    def rotate(self) -> None:
        """Take on a new RevisionId, after a write that leaves the state alone."""
        self.revision, self.settled_revision = new_revision(), new_revision()

    def published(self, number: int, description: str | None, now: float, settles_at: float) -> "Version":
        """An immutable copy under a number."""
        config = self.config if description is None else {**self.config, "Description": description}
        return Version(str(number), config, self.code, now, settles_at, published_from=self.fingerprint())

    def describe(self, name: str, arn: str, now: float) -> dict[str, Any]:
        """The FunctionConfiguration that a read at ``now`` shows."""
        shown = {
            **self.config,
            "FunctionName": name,
            "FunctionArn": arn,
            "Version": self.number,
            "CodeSha256": self.code.sha256,
            "CodeSize": len(self.code.zipped),
            "ConfigSha256": _sha256(self.config),
            "PackageType": "Zip",
            "LastModified": _iso(self.modified),
            "RevisionId": self.revision_at(now),
            "RuntimeVersionConfig": {"RuntimeVersionArn": _runtime_arn(arn, self.config["Runtime"])},
            "SnapStart": {"ApplyOn": self.snap_start(), "OptimizationStatus": self._optimization(now)},
            "State": "Active",
        }
        if now >= self.settles_at:
            return {**shown, "LastUpdateStatus": "Successful"}
        # A function being created has no LastUpdateStatus yet.
        what, state = ("State", "Pending") if self.pending else ("LastUpdateStatus", "InProgress")
        shown |= {what: state, f"{what}Reason": "The function is being created.", f"{what}ReasonCode": "Creating"}
        return shown


@dataclass
class Alias:
    """A name that points at a version, and perhaps sends a share of its requests to a second one."""

    name: str
    primary: str
    second: str | None = None
    weight: float = 0.0
    description: str = ""
    revision: str = field(default_factory=new_revision)
    moving_until: float | None = None
    """Until when Lambda itself keeps the old version's weight 1.0, while it allocates provisioned concurrency."""

    def move(self, old_version: str, until: float) -> None:
        """Leave all traffic on the old version until ``until`` (epoch seconds)."""
        self.second, self.weight, self.moving_until = old_version, 1.0, until

    def settle(self, now: float) -> None:
        """Remove the weight that Lambda set itself, once the capacity is allocated."""
        if self.moving_until is not None and now >= self.moving_until:
            self.stop_moving()
            self.revision = new_revision()

    def stop_moving(self) -> None:
        """Remove the weight that Lambda set itself, if there is one."""
        if self.moving_until is not None:
            self.second, self.weight, self.moving_until = None, 0.0, None

    def route(self, routing: Mapping[str, Any] | None) -> None:
        """Apply a RoutingConfig: None keeps what is there, an empty one clears it."""
        if routing is None:
            return
        weights = routing.get("AdditionalVersionWeights") or {}
        if len(weights) > 1:
            raise invalid("Number of items in AdditionalVersionWeights cannot be greater than 1")
        self.second, self.weight = next(iter(weights.items()), (None, 0.0))

    def describe(self, arn: str) -> dict[str, Any]:
        """The AliasConfiguration: without weights, RoutingConfig is absent rather than empty."""
        shown: dict[str, Any] = {"AliasArn": f"{arn}:{self.name}", "Name": self.name, "FunctionVersion": self.primary}
        shown |= {"Description": self.description, "RevisionId": self.revision}
        if self.second is not None:
            shown["RoutingConfig"] = {"AdditionalVersionWeights": {self.second: self.weight}}
        return shown


@dataclass
class Provisioned:
    """Provisioned concurrency of a version or an alias: ``available`` of ``requested`` until ``ready_at``."""

    requested: int
    available: int
    ready_at: float
    modified: float

    def describe(self, now: float) -> dict[str, Any]:
        """As GetProvisionedConcurrencyConfig shows it at ``now``."""
        ready = now >= self.ready_at
        count = self.requested if ready else self.available
        return {
            "RequestedProvisionedConcurrentExecutions": self.requested,
            "AllocatedProvisionedConcurrentExecutions": count,
            "AvailableProvisionedConcurrentExecutions": count,
            "Status": "READY" if ready else "IN_PROGRESS",
            "LastModified": _iso(self.modified),
        }


@dataclass
class Function:
    """A function with everything under its name. ``highest`` is the last number given, never given again."""

    name: str
    arn: str
    latest: Version
    before_update: Version | None = None
    versions: dict[str, Version] = field(default_factory=dict)
    highest: int = 0
    aliases: dict[str, Alias] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    reserved: int | None = None
    policies: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    provisioned: dict[str, "Provisioned"] = field(default_factory=dict)

    def version(self, qualifier: str | None) -> Version:
        """The version that a qualifier means; an alias's is its primary."""
        if qualifier in self.aliases:
            return self.version(self.aliases[qualifier].primary)
        found = self.latest if qualifier in (None, LATEST) else self.versions.get(str(qualifier))
        if found is None:
            raise missing(f"Function not found: {self.arn}:{qualifier}")
        return found

    def serving(self, qualifier: str | None, now: float) -> Version:
        """As ``version``, but as requests see it: $LATEST serves the old code until an update has settled."""
        found = self.version(qualifier)
        return self.before_update if found is self.latest and self.before_update and now < found.settles_at else found

    def alias(self, name: str) -> Alias:
        """The alias of that name, or ResourceNotFoundException."""
        if name not in self.aliases:
            raise missing(f"Cannot find alias arn: {self.arn}:{name}")
        return self.aliases[name]

    def put_alias(self, alias: Alias) -> dict[str, Any]:
        """Store an alias, unless AWS would refuse it as it now is."""
        primary = self.version(alias.primary)
        if alias.second is not None:
            if alias.second == alias.primary:
                included = f"Function version {alias.second} is already included in routing configuration."
                raise invalid(f"Invalid function version {alias.second}. {included}")
            if alias.primary == LATEST:
                raise invalid_untyped("$LATEST is not supported for an alias pointing to more than 1 version")
            second = self.version(alias.second)
            if primary.config.get("Role") != second.config.get("Role"):
                raise invalid("Specified versions must be associated with the same execution role")
            if primary.config.get("DeadLetterConfig") != second.config.get("DeadLetterConfig"):
                raise invalid("Specified versions must have the same dead letter queue configuration")
        self.aliases[alias.name] = alias
        return alias.describe(self.arn)


def configure(old: Mapping[str, Any], params: Params) -> dict[str, Any]:
    """A configuration with the given members replaced, each as a whole, and checked."""
    given = {name: params[name] for name in sorted(CONFIGURABLE) if params.get(name) is not None}
    if refused := runtime_problem(str(given.get("Runtime", "python"))):
        raise invalid(f"Value {given['Runtime']} at 'runtime' failed to satisfy constraint: {refused}")
    variables = given.get("Environment", {}).get("Variables", {})
    if sum(len(f"{name}{value}".encode()) for name, value in variables.items()) > _ENVIRONMENT_LIMIT:
        problem = "because the environment variables you have provided exceeded the 4KB limit."
        raise invalid(f"Lambda was unable to configure your environment variables {problem}")
    merged = {**old, **given}
    if "LoggingConfig" in given:
        merged["LoggingConfig"] = _logging({**old.get("LoggingConfig", {}), **given["LoggingConfig"]})
    # An empty dead-letter target is how one is taken away.
    if not merged.get("DeadLetterConfig", {}).get("TargetArn"):
        merged.pop("DeadLetterConfig", None)
    return merged


def runtime_problem(runtime: str) -> str:
    """Why a runtime cannot run here; empty: it can."""
    if runtime.startswith("python"):
        return ""
    if not runtime.startswith(NODE):
        return "the sandbox runs python and nodejs only"
    if shutil.which("node") is None:
        return "the sandbox runs nodejs where node is installed, and no node is in its PATH"
    return ""


def _logging(config: dict[str, Any]) -> dict[str, Any]:
    """A LoggingConfig as Lambda keeps it: levels exist for JSON only, and are INFO if not given."""
    levels = {"ApplicationLogLevel": "INFO", "SystemLogLevel": "INFO"}
    if config.get("LogFormat") == "JSON":
        return {**levels, **config}
    return {name: value for name, value in config.items() if name not in levels}


def page(items: Mapping[str, dict[str, Any]], params: Params, member: str) -> dict[str, Any]:
    """One page of a listing, at most 50 long whatever is asked for. The marker is the last key shown.

    Lists leave states out, as AWS documents for ListFunctions and ListVersionsByFunction.
    """
    keys, marker = list(items), params.get("Marker")
    # The next key in the listing's own order, even if the marker's item is gone meanwhile.
    start = next((n for n, key in enumerate(keys) if _order(key) > _order(marker)), len(keys)) if marker else 0
    shown = keys[start : start + min(params.get("MaxItems") or _PAGE, _PAGE)]
    states = ("State", "LastUpdateStatus", "RuntimeVersionConfig")
    rows = [{name: value for name, value in items[key].items() if not name.startswith(states)} for key in shown]
    more = {"NextMarker": shown[-1]} if start + len(shown) < len(keys) else {}
    return {member: rows, **more}


def _order(key: str) -> tuple[int, str]:
    return (int(key), "") if key.isdecimal() else (-1 if key == LATEST else 0, key)


def parse_name(params: Params, region: str) -> tuple[str, str | None]:
    """(name, qualifier) from a FunctionName (name, name:qualifier, partial or full ARN) and a Qualifier."""
    match = _NAME.fullmatch(params.get("FunctionName") or params["Resource"])
    if match is None:
        raise invalid(f"Invalid function name {params.get('FunctionName')}")
    # The server refuses those of another account.
    if (match["region"] or region) != region:
        raise missing(f"Functions from '{match['region']}' are not reachable in this region ('{region}')")
    given = params.get("Qualifier") or None
    if given and match["qualifier"] and given != match["qualifier"]:
        raise invalid("The derived qualifier from the function name does not match the specified qualifier.")
    return match["name"], given or match["qualifier"]


def violation(shape: Any, value: Any, path: str = "") -> str | None:
    """The first breach of the service model's own limits (lengths, ranges, patterns), in AWS's words, or None."""
    if shape is None or value is None:
        return None
    broken: list[str] = []
    if shape.type_name == "structure":
        for name, inner in value.items():
            member = f"{path}.{name[:1].lower()}{name[1:]}".lstrip(".")
            if name in shape.members and (found := violation(shape.members[name], inner, member)):
                return found
    elif shape.type_name == "map":
        for part, limits, inners in (("keys", shape.key, value), ("value", shape.value, value.values())):
            if any(is_broken for inner in inners for is_broken, _ in _constraints(limits, inner)):
                words = [text for _, text in _constraints(limits, next(iter(inners)))]
                words += [_NOT_NULL] if part == "value" else []
                broken = broken or [f"Map {part} must satisfy constraint: [{', '.join(words)}]"]
        value = "{" + ", ".join(f"{key}={inner}" for key, inner in value.items()) + "}"
    elif isinstance(value, str | int | float):
        broken = [text for is_broken, text in _constraints(shape, value) if is_broken]
    if not broken:
        return None
    return f"1 validation error detected: Value '{value}' at '{path}' failed to satisfy constraint: {'; '.join(broken)}"


_NOT_NULL = "Member must not be null"


def _constraints(shape: Any, value: Any) -> Iterator[tuple[bool, str]]:
    """(broken by the value?, in AWS's words) for each limit of a shape."""
    limits = shape.metadata
    what, size = ("length", len(value)) if isinstance(value, str) else ("value", value)
    if "max" in limits:
        yield size > limits["max"], f"Member must have {what} less than or equal to {limits['max']}"
    if "min" in limits:
        yield size < limits["min"], f"Member must have {what} greater than or equal to {limits['min']}"
    # Python has no \p{...} classes, which only tags use.
    if "pattern" in limits and "\\p" not in limits["pattern"]:
        matches = re.fullmatch(limits["pattern"], value) is not None
        yield not matches and value != "", f"Member must satisfy regular expression pattern: {limits['pattern']}"
    if "enum" in limits:
        yield value not in limits["enum"], f"Member must satisfy enum value set: [{', '.join(limits['enum'])}]"


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.000+0000")


def _runtime_arn(function_arn: str, runtime: str) -> str:
    region = function_arn.split(":")[3]
    return f"arn:aws:lambda:{region}::runtime:{hashlib.sha256(runtime.encode()).hexdigest()}"


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def invalid(message: str) -> AwsError:
    """InvalidParameterValueException."""
    return AwsError("InvalidParameterValueException", message, Type="User")


def invalid_untyped(message: str) -> AwsError:
    """InvalidParameterValueException without the member Type: some checks of Lambda answer so (recorded on AWS)."""
    return AwsError("InvalidParameterValueException", message)


def missing(message: str) -> AwsError:
    """ResourceNotFoundException."""
    return AwsError("ResourceNotFoundException", message, Type="User")


def conflict(message: str) -> AwsError:
    """ResourceConflictException."""
    return AwsError("ResourceConflictException", message, Type="User")


def busy(why: str) -> AwsError:
    """ResourceConflictException for a function whose state does not allow the operation."""
    return conflict(f"The operation cannot be performed at this time. {why}")


def check_revision(params: Params, current: str, read_by: str = "GetFunction/GetAlias") -> None:
    """PreconditionFailedException if a RevisionId is given and is not the current one; ``read_by`` shows that."""
    if params.get("RevisionId") not in (None, "", current):
        advice = f"Call the {read_by} API to retrieve the latest Revision Id"
        message = f"The Revision Id provided does not match the latest Revision Id. {advice}"
        raise AwsError("PreconditionFailedException", message, Type="User")
