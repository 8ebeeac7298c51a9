"""AWS Lambda's control plane: functions, versions, aliases, concurrency, tags and permissions.

Knows the operations. Never runs a handler, never uses moto's Lambda, and keeps nothing on disk.
"""

import json
import math
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from moto.core.model import OperationModel
from werkzeug.wrappers import Response

from buddy_sandbox import functions
from buddy_sandbox.access import ACCOUNT
from buddy_sandbox.functions import (
    LATEST,
    Alias,
    Code,
    Function,
    Provisioned,
    Version,
    busy,
    conflict,
    invalid,
    invalid_untyped,
    missing,
    page,
)
from buddy_sandbox.wire import AwsError, Params, Raw, Service

UNRESERVED_MINIMUM = 100
MOST_TAGS = 50
NO_IMAGES = "the sandbox runs zips only: it has no container images (PackageType Image)"
_FROM_S3 = {"S3Bucket", "S3Key", "S3ObjectVersion"}
_DEFAULTS = {
    "Architectures": ["x86_64"],
    "Description": "",
    "EphemeralStorage": {"Size": 512},
    "MemorySize": 128,
    "SnapStart": {"ApplyOn": "None"},
    "Timeout": 3,
    "TracingConfig": {"Mode": "PassThrough"},
}

_S3_ERRORS = {
    "NoSuchBucket": "S3 Error Code: NoSuchBucket. S3 Error Message: The specified bucket does not exist",
    "NoSuchKey": "S3 Error Code: NoSuchKey. S3 Error Message: The specified key does not exist.",
}

_REASONS: dict[str, dict[str, str]] = {
    "Pending": {"StateReason": "The function is being created.", "StateReasonCode": "Creating"},
    "Inactive": {"StateReason": "The function is idle.", "StateReasonCode": "Idle"},
    "Failed": {
        "StateReason": "The function's execution role is not valid or cannot be assumed by Lambda.",
        "StateReasonCode": "InvalidConfiguration",
    },
}
_UPDATE_REASONS: dict[str, dict[str, str]] = {
    "InProgress": {
        "LastUpdateStatusReason": "The function is being created.",
        "LastUpdateStatusReasonCode": "Creating",
    },
    "Failed": {
        "LastUpdateStatusReason": "The update could not be applied.",
        "LastUpdateStatusReasonCode": "InternalError",
    },
}
_KMS_DENIED = (
    "Lambda was unable to decrypt your environment variables because the KMS access was denied. "
    "Please check your KMS permissions. KMS Exception: AccessDeniedException"
)


class Time(Protocol):
    """A clock: virtual seconds since the epoch."""

    def now(self) -> float: ...


class ControlPlane(Service):
    """Lambda's control plane in one account and region; one operation at a time.

    Args:
        clock: gives virtual time; states settle by it.
        region: of the ARNs.
        account: of the ARNs.
        update_s: virtual seconds that $LATEST is InProgress after an update, and a new version Pending.
        fetch_s3: (bucket, key, version id) to a package; raises LookupError('NoSuchBucket' or 'NoSuchKey').

    Attributes that may be set at any time, each with AWS's usual value:
        update_s: as the argument.
        allocation_s: virtual seconds until provisioned concurrency is allocated; meanwhile an alias that was moved to
            another version keeps the weight {old version: 1.0}.
        snapshot_s: virtual seconds that a new version with SnapStart is Pending.
        latest_state: State of every $LATEST instead of its own: 'Pending', 'Inactive' or 'Failed'; None for its own.
        version_state: the same for every published version.
        update_status: LastUpdateStatus of every $LATEST instead of its own: 'InProgress' or 'Failed'; None for its own.
        latest_role: the execution role that every $LATEST of now has instead of its own; None for its own.
        kms_denied: whether callers may not use the KMS keys that encrypt environments.
        zip_limit: bytes of a package that is sent with the call.
        unzipped_limit: bytes of a package once unpacked.
        storage_limit: bytes of all packages in the account.
        concurrency: concurrent executions of the account.
    """

    name = "lambda"
    allocation_s = 120.0
    snapshot_s = 120.0
    latest_state: str | None = None
    version_state: str | None = None
    update_status: str | None = None
    _latest_role: str | None = None
    kms_denied = False
    zip_limit = 50 * 1024 * 1024
    unzipped_limit = 262144000
    storage_limit = 75 * 1024**3
    concurrency = 1000

    def __init__(
        self,
        clock: Time,
        region: str,
        update_s: float,
        fetch_s3: Callable[[str, str, str | None], bytes] | None,
        account: str = ACCOUNT,
    ) -> None:
        super().__init__()
        self.region = region
        self.account = account
        self.update_s = update_s
        self._clock = clock
        self._fetch_s3 = fetch_s3
        self._lock = threading.RLock()
        self._functions: dict[str, Function] = {}
        self._own_roles: dict[str, str] = {}

    @property
    def latest_role(self) -> str | None:
        """The role that was set for every $LATEST; None: each has its own."""
        return self._latest_role

    @latest_role.setter
    def latest_role(self, role: str | None) -> None:
        with self._lock:
            self._latest_role = role
            for fn in self._functions.values():
                own = self._own_roles.setdefault(fn.name, fn.latest.config["Role"])
                fn.latest = replace(fn.latest, config={**fn.latest.config, "Role": role or own})
                fn.latest.rotate()

    def call(self, operation: OperationModel, params: Params) -> Response:
        # Invoke locks for itself, and not while the handler runs: what it runs may call back.
        if problem := functions.violation(operation.input_shape, params):
            return self._answer(operation, AwsError("ValidationException", problem), functions.new_revision(), 400)
        if operation.name == "Invoke":
            return super().call(operation, params)
        with self._lock:
            self._settle_aliases()
            return super().call(operation, params)

    # Functions and their code.

    def create_function(self, params: Params) -> dict[str, Any]:
        name, _ = functions.parse_name(params, self.region)
        if name in self._functions:
            raise conflict(f"Function already exist: {name}")
        self._refuse_unsupported(params, {"FunctionName", "Code", "Publish", "PackageType", "Tags"})
        if params.get("PackageType") == "Image" or params["Code"].get("ImageUri"):
            raise AwsError("NotImplementedException", NO_IMAGES, status=501)
        if not params.get("Runtime") or not params.get("Handler"):
            raise invalid(
                "Runtime and Handler are mandatory parameters for functions created with deployment packages."
            )
        logging = {"LogFormat": "Text", "LogGroup": f"/aws/lambda/{name}"}
        config = functions.configure({**_DEFAULTS, "LoggingConfig": logging}, params)
        _refuse_many_tags(params.get("Tags") or {})
        now = self._clock.now()
        latest = Version(LATEST, config, self._code(params["Code"], "CreateFunction"), now, now + self.update_s)
        fn = self._functions[name] = Function(name, self._arn(name), latest, tags=dict(params.get("Tags") or {}))
        if not params.get("Publish"):
            return self._shown(fn, latest, None)
        # Version 1, under the function's own ARN (recorded).
        return {**self._publish(fn, None), "FunctionArn": fn.arn}

    def get_function(self, params: Params) -> dict[str, Any]:
        fn, qualifier = self._function(params)
        version = fn.version(qualifier)
        location = f"https://awslambda-{self.region}-tasks.s3.{self.region}.amazonaws.com/{fn.name}/{version.number}"
        reserved = {} if fn.reserved is None else {"Concurrency": {"ReservedConcurrentExecutions": fn.reserved}}
        return {
            "Configuration": self._shown(fn, version, qualifier),
            "Code": {"RepositoryType": "S3", "Location": location},
            **({"Tags": fn.tags} if fn.tags else {}),
            **reserved,
        }

    def get_function_configuration(self, params: Params) -> dict[str, Any]:
        fn, qualifier = self._function(params)
        return self._shown(fn, fn.version(qualifier), qualifier)

    def delete_function(self, params: Params) -> Raw:
        fn, qualifier = self._function(params, not_found="")
        if qualifier is None:
            del self._functions[fn.name]
        elif qualifier == LATEST:
            raise invalid("$LATEST version cannot be deleted without deleting the function.")
        elif not qualifier.isdecimal():
            raise invalid("Deletion of aliases is not currently supported.")
        elif users := [alias.name for alias in fn.aliases.values() if qualifier in (alias.primary, alias.second)]:
            raise conflict(f"Unable to delete version because the following aliases reference it: [{', '.join(users)}]")
        else:
            # AWS answers 204 for a version that is not there, too.
            for stored in (fn.versions, fn.provisioned, fn.policies):
                stored.pop(qualifier, None)
        return Raw(b"", 204)

    def list_functions(self, params: Params) -> dict[str, Any]:
        self._refuse_unsupported(params, {"Marker", "MaxItems"})
        found = [self._functions[name] for name in sorted(self._functions)]
        return page({fn.name: self._shown(fn, fn.latest, None) for fn in found}, params, "Functions")

    def update_function_code(self, params: Params) -> dict[str, Any]:
        fn = self._writable(params)
        sources = {"ZipFile", "ImageUri"} | _FROM_S3
        self._refuse_unsupported(params, {"FunctionName", "Publish", "DryRun", "RevisionId"} | sources)
        code = self._code(params, "UpdateFunctionCode")
        if params.get("DryRun"):
            return self._shown(fn, replace(fn.latest, code=code), None)
        self._update(fn, fn.latest.config, code)
        return self._publish(fn, None) if params.get("Publish") else self._shown(fn, fn.latest, None)

    def update_function_configuration(self, params: Params) -> dict[str, Any]:
        fn = self._writable(params)
        self._refuse_unsupported(params, {"FunctionName", "RevisionId"})
        self._update(fn, functions.configure(fn.latest.config, params), fn.latest.code)
        return self._shown(fn, fn.latest, None)

    def publish_version(self, params: Params) -> dict[str, Any]:
        fn = self._writable(params)
        if params.get("CodeSha256") not in (None, "", fn.latest.code.sha256):
            have = f"CodeSHA256 ({params['CodeSha256']}) is different from current CodeSHA256 in $LATEST"
            raise invalid(f"{have} ({fn.latest.code.sha256}). Please try again with the CodeSHA256 in $LATEST.")
        return self._publish(fn, params.get("Description"))

    def list_versions_by_function(self, params: Params) -> dict[str, Any]:
        fn, _ = self._function(params)
        versions = {LATEST: fn.latest, **fn.versions}
        return page({n: self._shown(fn, version, n) for n, version in versions.items()}, params, "Versions")

    # Aliases.

    def create_alias(self, params: Params) -> dict[str, Any]:
        fn, _ = self._function(params, not_found=params["FunctionVersion"])
        if params["Name"] in fn.aliases:
            raise conflict(f"Alias already exists: {fn.arn}:{params['Name']}")
        alias = Alias(params["Name"], params["FunctionVersion"], description=params.get("Description") or "")
        alias.route(params.get("RoutingConfig"))
        return fn.put_alias(alias)

    def update_alias(self, params: Params) -> dict[str, Any]:
        fn, _ = self._function(params)
        old = fn.aliases.get(params["Name"])
        if old is None:
            raise missing(f"Alias not found: {fn.arn}:{params['Name']}")
        functions.check_revision(params, old.revision)
        # A new RevisionId for every update, one that changes nothing included.
        alias = replace(old, revision=functions.new_revision())
        alias.primary = params.get("FunctionVersion") or old.primary
        if params.get("Description") is not None:
            alias.description = params["Description"]
        serving = self._serving_version(old)
        alias.stop_moving()
        alias.route(params.get("RoutingConfig"))
        shown = fn.put_alias(alias)
        provisioned = fn.provisioned.get(alias.name)
        if provisioned is not None and alias.second is None and alias.primary != serving and self.allocation_s > 0:
            # The reply does not show the weight yet (recorded); reads do (terraform-provider-aws, request 48116).
            if alias.primary != old.primary:
                self._allocate(provisioned)
            alias.move(serving, provisioned.ready_at)
        return shown

    def get_alias(self, params: Params) -> dict[str, Any]:
        fn, _ = self._function(params)
        return fn.alias(params["Name"]).describe(fn.arn)

    def delete_alias(self, params: Params) -> None:
        fn, _ = self._function(params)
        for stored in (fn.aliases, fn.provisioned, fn.policies):
            stored.pop(params["Name"], None)

    def list_aliases(self, params: Params) -> dict[str, Any]:
        fn, _ = self._function(params)
        version = params.get("FunctionVersion")
        found = [alias for _, alias in sorted(fn.aliases.items()) if version in (None, "", alias.primary)]
        return page({alias.name: alias.describe(fn.arn) for alias in found}, params, "Aliases")

    # Concurrency.

    def put_function_concurrency(self, params: Params) -> dict[str, Any]:
        fn = self._unqualified(params)
        wanted = params["ReservedConcurrentExecutions"]
        others = sum(other.reserved or 0 for other in self._functions.values() if other is not fn)
        if self.concurrency - others - wanted < UNRESERVED_MINIMUM:
            below = f"UnreservedConcurrentExecution below its minimum value of [{UNRESERVED_MINIMUM}]."
            raise invalid_untyped(f"Specified ReservedConcurrentExecutions for function decreases account's {below}")
        provisioned = sum(each.requested for each in fn.provisioned.values())
        if wanted < provisioned:
            lower = f"should not be lower than function's total provisioned concurrency [{provisioned}]."
            raise invalid_untyped(f" ReservedConcurrentExecutions  {wanted} {lower}")
        fn.reserved = wanted
        return {"ReservedConcurrentExecutions": wanted}

    def get_function_concurrency(self, params: Params) -> dict[str, Any]:
        fn, _ = self._function(params)
        return {} if fn.reserved is None else {"ReservedConcurrentExecutions": fn.reserved}

    def delete_function_concurrency(self, params: Params) -> None:
        self._function(params)[0].reserved = None

    def put_provisioned_concurrency_config(self, params: Params) -> dict[str, Any]:
        fn, qualifier = self._provisionable(
            params, latest="Provisioned Concurrency Configs cannot be applied to unpublished function versions."
        )
        if fn.version(qualifier) is fn.latest:
            raise invalid("Provisioned Concurrency Configs cannot be applied to unpublished function versions.")
        if qualifier in fn.aliases and fn.aliases[qualifier].second is not None:
            raise invalid("Alias with weights can not be used with Provisioned Concurrency")
        self._refuse_provisioning(fn, str(qualifier), params["ProvisionedConcurrentExecutions"])
        now, before = self._clock.now(), fn.provisioned.get(str(qualifier))
        available = before.requested if before else 0
        made = Provisioned(params["ProvisionedConcurrentExecutions"], available, now + self.allocation_s, now)
        fn.provisioned[str(qualifier)] = made
        return made.describe(now)

    def get_provisioned_concurrency_config(self, params: Params) -> dict[str, Any]:
        fn, qualifier = self._provisionable(params)
        if qualifier not in fn.provisioned:
            code = "ProvisionedConcurrencyConfigNotFoundException"
            raise AwsError(code, "No Provisioned Concurrency Config found for this function", Type="User")
        return fn.provisioned[qualifier].describe(self._clock.now())

    def list_provisioned_concurrency_configs(self, params: Params) -> dict[str, Any]:
        fn, _ = self._function(params)
        found = {}
        for qualifier in sorted(fn.provisioned):
            config = self.get_provisioned_concurrency_config({**params, "Qualifier": qualifier})
            found[qualifier] = {"FunctionArn": f"{fn.arn}:{qualifier}", **config}
        return page(found, params, "ProvisionedConcurrencyConfigs")

    def delete_provisioned_concurrency_config(self, params: Params) -> None:
        fn, qualifier = self._provisionable(params)
        fn.provisioned.pop(str(qualifier), None)

    def get_account_settings(self, params: Params) -> dict[str, Any]:
        found = self._functions.values()
        unreserved = self.concurrency - sum(fn.reserved or 0 for fn in found)
        limit = {"TotalCodeSize": self.storage_limit, "ConcurrentExecutions": self.concurrency}
        limit |= {"CodeSizeUnzipped": self.unzipped_limit, "CodeSizeZipped": self.zip_limit}
        limit |= {"UnreservedConcurrentExecutions": unreserved}
        usage = {"TotalCodeSize": self._stored(), "FunctionCount": len(found)}
        return {"AccountLimit": limit, "AccountUsage": usage}

    # Tags and permissions.

    def tag_resource(self, params: Params) -> None:
        fn, qualifier = self._function(params)
        if qualifier is not None:
            raise invalid("Tags on function aliases and versions are not supported. Please specify a function ARN.")
        if not params["Tags"]:
            raise invalid("An error occurred and the request cannot be processed.")
        _refuse_many_tags({**fn.tags, **params["Tags"]})
        fn.tags.update(params["Tags"])
        fn.latest.rotate()

    def untag_resource(self, params: Params) -> None:
        fn, _ = self._function(params)
        for key in params["TagKeys"]:
            fn.tags.pop(key, None)
        fn.latest.rotate()

    def list_tags(self, params: Params) -> dict[str, Any]:
        return {"Tags": self._function(params)[0].tags}

    def add_permission(self, params: Params) -> dict[str, Any]:
        fn, qualifier, policy = self._policy(params, read_by="GetPolicy")
        sid, principal = params["StatementId"], params["Principal"]
        if sid in policy:
            advice = "Please provide a new statement id, or remove the existing statement."
            raise conflict(f"The statement id ({sid}) provided already exists. {advice}")
        who = {"Service": principal} if principal.endswith(".amazonaws.com") else {"AWS": principal}
        resource = f"{fn.arn}:{qualifier}" if qualifier else fn.arn
        statement = {"Sid": sid, "Effect": "Allow", "Principal": who, "Action": params["Action"], "Resource": resource}
        if params.get("SourceArn"):
            statement["Condition"] = {"ArnLike": {"AWS:SourceArn": params["SourceArn"]}}
        policy[sid] = statement
        self._rotate(fn, qualifier)
        return {"Statement": json.dumps(statement)}

    def remove_permission(self, params: Params) -> None:
        fn, qualifier, policy = self._policy(params)
        if policy.pop(params["StatementId"], None) is None:
            raise missing(f"Statement {params['StatementId']} is not found in resource policy.")
        self._rotate(fn, qualifier)

    def get_policy(self, params: Params) -> dict[str, Any]:
        fn, qualifier, policy = self._policy(params)
        if not policy:
            raise missing("The resource you requested does not exist.")
        document = {"Version": "2012-10-17", "Id": "default", "Statement": list(policy.values())}
        return {"Policy": json.dumps(document), "RevisionId": self._revision(fn, qualifier)}

    # Shared steps; the lock is held.

    def _arn(self, name: str) -> str:
        return f"arn:aws:lambda:{self.region}:{self.account}:function:{name}"

    def _function(self, params: Params, not_found: str | None = None) -> tuple[Function, str | None]:
        """The function and the qualifier. ``not_found``: the qualifier that is told of one that does not exist."""
        name, qualifier = functions.parse_name(params, self.region)
        if name not in self._functions:
            told = (qualifier or "") if not_found is None else not_found
            raise missing(f"Function not found: {self._arn(name)}" + (f":{told}" if told else ""))
        return self._functions[name], qualifier

    def _writable(self, params: Params) -> Function:
        """The function, if its RevisionId is the one given and no update is in progress."""
        fn, _ = self._function(params)
        functions.check_revision(params, fn.latest.revision_at(self._clock.now()))
        shown = self._shown(fn, fn.latest, None)
        if shown["State"] in ("Pending", "Failed"):
            raise busy(f"The function is currently in the following state: {shown['State']}")
        if shown.get("LastUpdateStatus") == "InProgress":
            raise busy(f"An update is in progress for resource: {fn.arn}")
        return fn

    def _unqualified(self, params: Params) -> Function:
        """The function, for an operation that takes no version or alias."""
        name, qualifier = functions.parse_name(params, self.region)
        if name not in self._functions:
            raise missing(f"Function not found: {self._arn(name)}:{LATEST}")
        if qualifier is not None:
            permitted = "This operation is permitted on Lambda functions only."
            unsupported = "Aliases and versions do not support this operation."
            advice = "Please specify either a function name or an unqualified function ARN."
            raise invalid(f"{permitted} {unsupported} {advice}")
        return self._functions[name]

    def _provisionable(
        self, params: Params, latest: str = "The function resource provided must be an alias or a published version."
    ) -> tuple[Function, str | None]:
        """The function and the qualifier, which must be an alias or a published version."""
        name, qualifier = functions.parse_name(params, self.region)
        if qualifier in (None, LATEST):
            raise invalid(latest)
        if name not in self._functions and not str(qualifier).isdecimal():
            raise missing(f"Cannot find alias arn: {self._arn(name)}:{qualifier}")
        fn, _ = self._function(params)
        if not str(qualifier).isdecimal():
            fn.alias(str(qualifier))
        fn.version(qualifier)
        return fn, qualifier

    def _refuse_provisioning(self, fn: Function, qualifier: str, wanted: int) -> None:
        if qualifier in fn.aliases and fn.aliases[qualifier].primary in fn.provisioned:
            owner = "Alias can't be used for Provisioned Concurrency configuration"
            raise conflict(f"{owner} on an already Provisioned version")
        if any(alias.primary == qualifier and alias.name in fn.provisioned for alias in fn.aliases.values()):
            raise conflict("Version is pointed by a Provisioned Concurrency alias")
        total = wanted + sum(each.requested for name, each in fn.provisioned.items() if name != qualifier)
        if fn.reserved is not None:
            if total > fn.reserved:
                greater = "should not be greater than the reservedConcurrentExecution for function"
                raise invalid(f"Requested Provisioned Concurrency {greater}")
            return
        unreserved = self.concurrency - sum(each.reserved or 0 for each in self._functions.values())
        if total > unreserved:
            greater = f"is greater than account's unreserved concurrency [{unreserved}]."
            raise invalid_untyped(f"Specified ConcurrentExecutions for function {greater}")
        if unreserved - total < UNRESERVED_MINIMUM:
            below = f"UnreservedConcurrentExecution below its minimum value of [{UNRESERVED_MINIMUM}]."
            raise invalid_untyped(f"Specified ConcurrentExecutions for function decreases account's {below}")

    def _allocate(self, provisioned: Provisioned) -> None:
        """Begin to allocate anew for another version; the old one's capacity serves meanwhile."""
        now = self._clock.now()
        provisioned.available = provisioned.describe(now)["AvailableProvisionedConcurrentExecutions"]
        provisioned.ready_at = now + self.allocation_s

    def _serving_version(self, alias: Alias) -> str:
        """Which version has all traffic of an alias, the one that Lambda itself keeps included."""
        return alias.second if alias.moving_until is not None and alias.second else alias.primary

    def _settle_aliases(self) -> None:
        now = self._clock.now()
        for fn in self._functions.values():
            for alias in fn.aliases.values():
                alias.settle(now)

    def _stored(self) -> int:
        """Bytes of all packages in the account."""
        found = self._functions.values()
        return sum(len(version.code.zipped) for fn in found for version in (fn.latest, *fn.versions.values()))

    def _update(self, fn: Function, config: dict[str, Any], code: Code) -> None:
        now = self._clock.now()
        fn.before_update = fn.latest
        fn.latest = Version(LATEST, config, code, now, now + self.update_s, pending=False)

    def _publish(self, fn: Function, description: str | None) -> dict[str, Any]:
        last = fn.versions.get(str(fn.highest))
        if last is None or last.published_from != fn.latest.fingerprint():
            now = self._clock.now()
            self._refuse_full_storage(fn.latest.code)
            fn.highest += 1
            # Published alone it is Active at once (recorded); with a create or an update, when that has settled.
            snapshot_s = self.snapshot_s if fn.latest.snap_start() == "PublishedVersions" else 0.0
            settles_at = max(now, fn.latest.settles_at) + snapshot_s
            last = fn.latest.published(fn.highest, description or None, now, settles_at)
            fn.versions[last.number] = last
            fn.latest.rotate()
        return self._shown(fn, last, last.number)

    def _code(self, given: Params, operation: str) -> Code:
        code = self._given_code(given, operation)
        self._refuse_full_storage(code)
        return code

    def _refuse_full_storage(self, code: Code) -> None:
        if self._stored() + len(code.zipped) > self.storage_limit:
            raise AwsError("CodeStorageExceededException", "Code storage limit exceeded.", Type="User")

    def _given_code(self, given: Params, operation: str) -> Code:
        if given.get("ImageUri"):
            raise invalid("Please don't provide ImageUri when updating a function with packageType Zip.")
        if zipped := given.get("ZipFile"):
            if len(zipped) > self.zip_limit:
                # The limit is on the request, in which the package is base64.
                limit = math.ceil(self.zip_limit * 4 / 3)
                message = f"Request must be smaller than {limit} bytes for the {operation} operation"
                raise AwsError("RequestEntityTooLargeException", message, status=413, Type="User")
            return Code.of(zipped, self.unzipped_limit)
        if not given.get("S3Bucket") or not given.get("S3Key") or self._fetch_s3 is None:
            raise invalid("Please provide a source for function code.")
        try:
            package = self._fetch_s3(given["S3Bucket"], given["S3Key"], given.get("S3ObjectVersion"))
            return Code.of(package, self.unzipped_limit)
        except LookupError as error:
            code = "NoSuchBucket" if "NoSuchBucket" in str(error) else "NoSuchKey"
            raise invalid(f"Error occurred while GetObject. {_S3_ERRORS[code]}") from None

    def _shown(self, fn: Function, version: Version, qualifier: str | None) -> dict[str, Any]:
        arn = f"{fn.arn}:{qualifier}" if qualifier else fn.arn
        shown = version.describe(fn.name, arn, self._clock.now())
        forced = self.latest_state if version.number == LATEST else self.version_state
        if forced:
            shown |= {"State": forced, **_REASONS.get(forced, {})}
        if self.update_status and version.number == LATEST:
            shown |= {"LastUpdateStatus": self.update_status, **_UPDATE_REASONS[self.update_status]}
        if self.kms_denied and shown.get("KMSKeyArn") and shown.get("Environment"):
            shown["Environment"] = {"Error": {"ErrorCode": "AccessDeniedException", "Message": _KMS_DENIED}}
        return shown

    def _policy(
        self, params: Params, read_by: str = "GetFunction/GetAlias"
    ) -> tuple[Function, str | None, dict[str, dict[str, Any]]]:
        fn, qualifier = self._function(params)
        functions.check_revision(params, self._revision(fn, qualifier), read_by)
        return fn, qualifier, fn.policies.setdefault(qualifier or "", {})

    def _revision(self, fn: Function, qualifier: str | None) -> str:
        if qualifier in fn.aliases:
            return fn.aliases[qualifier].revision
        return fn.version(qualifier).revision_at(self._clock.now())

    def _rotate(self, fn: Function, qualifier: str | None) -> None:
        if qualifier in fn.aliases:
            fn.aliases[qualifier].revision = functions.new_revision()
        else:
            fn.version(qualifier).rotate()

    def _refuse_unsupported(self, params: Params, known: set[str]) -> None:
        given = {name for name, value in params.items() if value is not None}
        if unknown := sorted(given - functions.CONFIGURABLE - known):
            raise AwsError("NotImplementedException", f"the sandbox's Lambda has no {', '.join(unknown)}", status=501)


def _refuse_many_tags(tags: dict[str, str]) -> None:
    if len(tags) > MOST_TAGS:
        raise invalid("Number of tags exceeds resource tag limit.")
