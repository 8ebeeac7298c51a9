"""The target of a runbook: an environment's settings, AWS clients, the clock and the journal.

The only module of the library that creates AWS clients.
"""

import os
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from botocore.config import Config
from botocore.session import Session

from buddy_ops.aws import _client, _credentials
from buddy_ops.aws.clock import Clock, SandboxClock, SystemClock
from buddy_ops.aws.errors import translate_error
from buddy_ops.core import palette, project
from buddy_ops.core import settings as settings_
from buddy_ops.core.errors import AwsFailed, InvalidInput, NotFound
from buddy_ops.core.journal import Journal, JournalFile, iso_utc
from buddy_ops.core.redaction import FILE, Redactor
from buddy_ops.core.settings import Settings
from buddy_ops.core.side_channels import SideChannels
from buddy_ops.core.text import escape_html, escape_markdown

if TYPE_CHECKING:
    from types_boto3_cloudwatch import CloudWatchClient
    from types_boto3_cloudwatch.type_defs import DimensionTypeDef
    from types_boto3_dynamodb import DynamoDBClient
    from types_boto3_iam import IAMClient
    from types_boto3_kms import KMSClient
    from types_boto3_lambda import LambdaClient
    from types_boto3_logs import CloudWatchLogsClient
    from types_boto3_s3 import S3Client
    from types_boto3_scheduler import EventBridgeSchedulerClient
    from types_boto3_sns import SNSClient
    from types_boto3_ssm import SSMClient
    from types_boto3_sts import STSClient
    from types_boto3_sts.type_defs import GetCallerIdentityResponseTypeDef

    from buddy_ops.aws._client_types import QueueClient, RegistryClient

USER_AGENT = "buddy-ops"
ALIKE = (
    "get_caller_identity",
    "get_object_lock_configuration",
    "get_public_key",
    "get_role",
    "list_subscriptions_by_topic",
)
"""Reads whose answer is the same for every function of an account, where their parameters are."""

# Three attempts of 3 s to connect and 10 s to answer make the 40 s that ``failsafe.SETTLED`` allows a call.
ATTEMPTS = 3
"""How often the SDK sends a call at most."""

READ_TIMEOUT_S = 10

CONNECTIONS = 32
"""So many connections of a client are kept open: more than there are threads that use it at once. botocore keeps 10,
and opens another for each further call, which costs more than the call."""

CREATING = threading.RLock()
"""Held while a client is made: botocore's sessions are not safe for that in threads.
Source: boto3, "Multithreading or multiprocessing with sessions"."""

RetryMode = Literal["standard", "adaptive"]


@dataclass(kw_only=True)
class Target:
    """Where a runbook acts, and as which caller."""

    environment: str
    settings: Settings
    runbook: str
    clock: Clock
    journal: Journal
    session: Session
    region: str
    endpoint_url: str | None
    sandbox: bool
    run: str
    folder: Path
    redactor: Redactor
    side: SideChannels = field(default_factory=SideChannels)
    dry_run: bool = False
    replaced: tuple[str, ...] = ()
    retry_mode: RetryMode = "standard"
    base_environment: str = ""
    _origin: "Target | None" = None
    _answers: "_SharedAnswers | None" = None
    _clients: dict[tuple[str, int, int], Any] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _jumps_journaled: int = 0

    @cached_property
    def _caller(self) -> "GetCallerIdentityResponseTypeDef":
        return self.client("sts").get_caller_identity()

    @property
    def account(self) -> str:
        """The AWS account's number. AWS: sts:GetCallerIdentity, once."""
        return self._caller["Account"]

    @property
    def principal(self) -> str:
        """The caller's ARN as AWS names it. A name in a parameter is only a claim."""
        return self._caller["Arn"]

    @property
    def partition(self) -> str:
        """'aws', 'aws-cn' or 'aws-us-gov'. AWS: sts:GetCallerIdentity, once."""
        return self.principal.split(":")[1]

    @property
    def ci(self) -> str:
        """The CI run, by its environment variables, which anyone can set; empty: none."""
        if os.environ.get("GITHUB_ACTIONS") == "true":
            values = (os.environ.get(f"GITHUB_{name}", "?") for name in ("REPOSITORY", "RUN_ID", "ACTOR"))
            return "GitHub Actions, {} run {} by {}".format(*values)
        if os.environ.get("CI", "").lower() in ("true", "1"):
            return "CI"
        return ""

    @property
    def resource(self) -> str:
        """The Resource dimension of the alias's metrics, for example 'shop-prod:live'."""
        return f"{self.settings.function}:{self.settings.alias}"

    def fill(self, dimensions: Mapping[str, str], version: str = "") -> "list[DimensionTypeDef]":
        """Dimensions of the settings as CloudWatch takes them, with the function's, alias's and version's names."""
        names = {
            "{function}": self.settings.function,
            "{alias}": self.settings.alias,
            "{resource}": self.resource,
            "{version}": version,
        }
        found: list[DimensionTypeDef] = []
        for key, value in dimensions.items():
            filled = value
            for name, own in names.items():
                filled = filled.replace(name, own)
            found.append({"Name": key, "Value": filled})
        return found

    @overload
    def client(self, service: Literal["cloudwatch"]) -> "CloudWatchClient": ...
    @overload
    def client(self, service: Literal["dynamodb"]) -> "DynamoDBClient": ...
    @overload
    def client(self, service: Literal["ecr"]) -> "RegistryClient": ...
    @overload
    def client(self, service: Literal["iam"]) -> "IAMClient": ...
    @overload
    def client(self, service: Literal["kms"]) -> "KMSClient": ...
    @overload
    def client(
        self, service: Literal["lambda"], *, attempts: int = ..., read_timeout_s: int = ...
    ) -> "LambdaClient": ...
    @overload
    def client(self, service: Literal["logs"]) -> "CloudWatchLogsClient": ...
    @overload
    def client(self, service: Literal["s3"]) -> "S3Client": ...
    @overload
    def client(self, service: Literal["scheduler"]) -> "EventBridgeSchedulerClient": ...
    @overload
    def client(self, service: Literal["sns"]) -> "SNSClient": ...
    @overload
    def client(self, service: Literal["sqs"]) -> "QueueClient": ...
    @overload
    def client(self, service: Literal["ssm"]) -> "SSMClient": ...
    @overload
    def client(self, service: Literal["sts"]) -> "STSClient": ...

    def client(
        self, service: _client.Service, *, attempts: int = ATTEMPTS, read_timeout_s: int = READ_TIMEOUT_S
    ) -> Any:
        """A botocore client whose calls are journaled. Its methods and paginators raise ``AwsFailed``.

        Args:
            service: boto3's name, for example 'lambda'.
            attempts: how often a call is sent at most; 1 for ``invoke``, which must not run the function's code twice.
            read_timeout_s: how long an answer is waited for; ``invoke`` waits for the function's code.
        """
        # Threads may ask for the same client at once.
        key = (service, attempts, read_timeout_s)
        with self._lock:
            if key not in self._clients:
                self._clients[key] = self._create_client(service, attempts, read_timeout_s)
                self._clients[key].target = self
            return self._clients[key]

    def _create_client(self, service: _client.Service, attempts: int, read_timeout_s: int) -> Any:
        if self._origin is not None:
            find: Callable[..., Any] = self._origin.client
            return _client.for_target(find(service, attempts=attempts, read_timeout_s=read_timeout_s), self)
        # botocore waits 60 s for a connection, and 60 s for an answer: too long for a rollback.
        config = Config(
            connect_timeout=3,
            read_timeout=read_timeout_s,
            retries={"mode": self.retry_mode, "total_max_attempts": attempts},
            max_pool_connections=CONNECTIONS,
            user_agent_appid=USER_AGENT,  # type: ignore[call-arg]  # the stubs lack it
        )
        # The models of the services are read once so, too: all sessions share them.
        with CREATING:
            return self.session.create_client(
                service, region_name=self.region, endpoint_url=self.endpoint_url, config=config
            )

    def share_answers(self) -> None:
        """Ask AWS once for what is ``ALIKE`` for all targets beside this one; before they are made."""
        self._answers = _SharedAnswers()

    def perform(self, service: str, operation: str, parameters: _client.Fields, send: _client.Send) -> _client.Fields:
        """Send one call of a client, or give the answer that another target was given. Clients call this.

        Raises:
            AwsFailed: as ``_send``.
        """
        ask = partial(self._send, service, operation, parameters=parameters, send=send)
        if self._answers is None or operation not in ALIKE:
            return ask()
        return self._answers.once(f"{service}:{operation} {sorted(parameters.items())}", ask)

    def _send(self, service: str, operation: str, parameters: _client.Fields, send: _client.Send) -> _client.Fields:
        """Send one call of a client, and journal it.

        Args:
            service: boto3's name, for example 'lambda'.
            operation: boto3's method, for example 'update_alias'.
            parameters: the call's parameters.
            send: sends these parameters, with the SDK's retries.

        Raises:
            AwsFailed: ``code`` says how AWS or the connection to it failed.
        """
        noted = {key: value for key, value in parameters.items() if key not in _client.NOT_JOURNALED}
        entry: dict[str, object] = {"call": f"{service}:{operation}", "parameters": noted}
        sent = self.clock.now()
        self._journal_jumps()
        try:
            # Inside: credentials that are about to expire are fetched here, by a call that can fail like this one.
            self._learn_keys()
            reply = send(parameters)
            _client.read_body(reply)
        except _client.SDK_ERRORS as error:
            self._learn_time(getattr(error, "response", {}), sent)
            failure = translate_error(error, f"{service}:{operation}", self.region)
            self.journal.append("aws", **entry, failed=failure.code)
            raise failure from error
        self._learn_time(reply, sent)
        # Before the caller has the reply, and can print it.
        _client.learn_secrets(self.redactor, service, reply)
        self.journal.append("aws", **entry, request=reply.get("ResponseMetadata", {}).get("RequestId"))
        return reply

    def _learn_keys(self) -> None:
        """Let the redactor know the keys that the next call is signed with. A role may be assumed for it, or again."""
        own = self.session.get_credentials()
        if own is None:
            return
        keys = own.get_frozen_credentials()
        # The sandbox's key is no secret, and as a word it would be cut in every text.
        if keys.secret_key != _credentials.SANDBOX_KEY:
            self.redactor.add_secret(keys.secret_key or "")
            self.redactor.add_secret(keys.token or "")

    def _journal_jumps(self) -> None:
        """Record each jump of this machine's clock once."""
        with self._lock:
            jumps = self.clock.jumps[self._jumps_journaled :]
            self._jumps_journaled += len(jumps)
        for jump in jumps:
            noticed = iso_utc(jump.at)
            self.journal.append("clock-jumped", by_s=jump.by_s, suspended=jump.suspended, noticed=noticed)

    def _learn_time(self, reply: Mapping[str, Any], sent: datetime) -> None:
        change = _client.learn_time(self.clock, reply, sent)
        if change:
            self.journal.append("clock", corrected_by_s=change.total_seconds())

    def learn_secrets(self) -> str:
        """Read the secrets that the redactor must know; returns what could not be read, in words.

        AWS: lambda:GetFunctionConfiguration, reads only.
        """
        try:
            client = self.client("lambda")
            name = self.settings.function
            client.get_function_configuration(FunctionName=name)
            client.get_function_configuration(FunctionName=name, Qualifier=self.settings.alias)
        except NotFound:
            return ""  # no function or alias, so no environment
        except AwsFailed as failure:
            return f"The function's environment could not be read, so its values were not redacted: {failure.what}"
        return ""

    @property
    def is_production(self) -> bool:
        """Whether users depend on this environment, by its name: 'prod', 'prod-eu', 'production'."""
        if self.sandbox:
            return False
        base = self.base_environment or project.base_environment(self.environment)
        return base.casefold().startswith("prod")

    def _repr_html_(self) -> str | None:
        """A red banner in production; else None: the Markdown is shown.

        The style is for JupyterLab, in both of its themes. An archived page has a colour of its own for the class.
        """
        if not self.is_production:
            return None
        lines = self._repr_markdown_().replace("**", "").replace("`", "")
        return (
            f'<p style="margin:0;padding:6px 12px;{palette.PROBLEM.banner}">'
            f'<b class="problem" style="{palette.PROBLEM.banner}">PRODUCTION</b> {escape_html(lines)}</p>'
        )

    def _repr_markdown_(self) -> str:
        banner = ""
        if self.dry_run:
            banner = "**Dry run: nothing will be written.** "
        try:
            principal = self.principal
            where = f"AWS account {self.account}"
        except AwsFailed as failure:
            # A rollback must not depend on STS.
            return f"{banner}**{self.environment}**: the caller is unknown: {escape_markdown(failure.what)}"
        if self.sandbox:
            where = f"sandbox at {self.endpoint_url}, virtual time"
        caller = escape_markdown(principal, keep_code=False)
        return (
            f"{banner}**{self.environment}**: function `{self.settings.function}`, alias `{self.settings.alias}`, "
            f"{where}, region {self.region}, as `{caller}`, at {self.clock.now():%Y-%m-%d %H:%M} UTC, "
            f"run `{self.run}`."
        )

    def now(self) -> str:
        """The clock's time, as journals have it."""
        return iso_utc(self.clock.now())

    def without_journal(self) -> "Target":
        """The same target with clients whose calls are not journaled: for what comes after a run is archived."""
        # New clients too: a client journals into the target that it was made for.
        journal = Journal(_keep_nothing, self.clock.now, self.redactor.redact)
        return replace(self, journal=journal, _clients={}, _lock=threading.Lock())

    def beside(self, name: str, settings: Settings, *, base_environment: str) -> "Target":
        """Another function of the same account and region, with the same clients and credentials.

        Args:
            base_environment: whose file has its rules. With it no target reads the fleet's file again.
        """
        return replace(self, environment=name, settings=settings, base_environment=base_environment)

    def acting_beside(
        self,
        name: str,
        settings: Settings,
        *,
        base_environment: str,
        runbook: str,
        dry_run: bool,
        held: bool = False,
    ) -> "Target":
        """As ``beside``, with a run and a journal of its own in a folder of its own: it may write.

        Args:
            held: whether its journal is written by ``journal.release`` only.
        """
        run = secrets.token_hex(4)
        folder = self.folder.parent / _folder_name(runbook, name, run=run, now=self.clock.now())
        side = SideChannels()
        write = JournalFile(folder / "journal.jsonl")
        here = replace(
            self.beside(name, settings, base_environment=base_environment),
            runbook=runbook,
            run=run,
            folder=folder,
            side=side,
            journal=Journal(write, self.clock.now, self.redactor.redact_with_shared, side, held=held),
            dry_run=dry_run,
            _clients={},
            _lock=threading.Lock(),
            _origin=self,
        )
        here.journal.append("opened", **here.describe_opening())
        return here

    def describe_opening(self) -> dict[str, object]:
        """The first record of its journal. The settings are resolved: an environment's file may extend another."""
        used = self.settings.model_dump(mode="json", exclude_defaults=True)
        opened = {"run": self.run, "folder": self.folder.name, "runbook": self.runbook, "environment": self.environment}
        return {**opened, "dry_run": self.dry_run, "ci": self.ci, "settings": used}

    def acting_as(self, role: str) -> "Target":
        """The same target as a role, assumed by the caller whose credentials this machine has. Nothing is journaled.

        AWS: sts:AssumeRole, at the first call.

        Args:
            role: its ARN.
        """
        # A session of its own: the role would otherwise sign the calls of this target's clients as well.
        own, _ = _credentials.open_session(self.settings, self.sandbox)
        create = partial(own.create_client, region_name=self.region, endpoint_url=self.endpoint_url)
        _credentials.assume_role(own, role, name=f"buddy-ops-{self.run}", clock=self.clock, create_client=create)
        return replace(self.without_journal(), session=own)

    def close(self) -> None:
        """Let the sandbox's time continue without this run."""
        self.clock.close()


class _SharedAnswers:
    """Answers of AWS, refusals too, that several targets are given."""

    def __init__(self) -> None:
        self._known: dict[str, _client.Fields | AwsFailed] = {}
        self._lock = threading.Lock()

    def once(self, question: str, ask: Callable[[], _client.Fields]) -> _client.Fields:
        """The answer to a question, asked once."""
        # The lock is held while AWS is asked: threads that ask the same wait for this answer.
        with self._lock:
            if question not in self._known:
                try:
                    self._known[question] = ask()
                except AwsFailed as failure:
                    self._known[question] = failure
            answer = self._known[question]
        if isinstance(answer, AwsFailed):
            raise answer
        return answer


def connect(
    environment: str,
    runbook: str,
    *,
    values: Mapping[str, object] | None = None,
    replaced: Mapping[str, object] | None = None,
    dry_run: bool = False,
    quiet: bool = False,
    run: str | None = None,
) -> Target:
    """The target for an environment.

    Args:
        environment: which parameters/ file.
        runbook: who asks, for the journal and the run's folder.
        values: settings that were already given (papermill -f); absent: the environment's file is read.
        replaced: rollout settings that parameters replace.
        dry_run: whether actions only say what they would do.
        quiet: keep no journal: a read-only command.
        run: the run's id; absent: a new one.

    Raises:
        InvalidInput: ``invalid-settings``, ``unknown-environment``, ``no-region`` or ``no-profile``.
        AwsFailed: ``sandbox-not-running`` or ``sandbox-token``.
    """
    given, source = _read_values(environment, values)
    settings = settings_.validate_settings(given, source, replaced)
    # A parameter that repeats the file's value replaces nothing, and breaks no rule that fixes it.
    before = settings_.validate_settings(given, source).rollout
    target = _open(environment, settings, runbook, dry_run=dry_run, quiet=quiet, run=run)
    target.replaced = tuple(name for name in replaced or {} if getattr(before, name) != getattr(settings.rollout, name))
    target.journal.append("opened", **target.describe_opening())
    return target


def connect_reader(environment: str, settings: Settings, runbook: str) -> Target:
    """A target that keeps no journal, for reading many functions of one account and region: see ``Target.beside``.

    Its clients slow down together when AWS throttles them, so that they leave the quotas to others.

    Raises:
        InvalidInput, AwsFailed: as ``connect``, but for the settings, which are valid already.
    """
    target = _open(environment, settings, runbook, dry_run=True, quiet=True, run=None)
    target.retry_mode = "adaptive"
    return target


def _open(environment: str, settings: Settings, runbook: str, *, dry_run: bool, quiet: bool, run: str | None) -> Target:
    endpoint = os.environ.get("AWS_ENDPOINT_URL") or settings.aws.endpoint_url
    sandbox = endpoint is not None and _credentials.is_sandbox(endpoint)
    session, region = _credentials.open_session(settings, sandbox)
    clock: Clock = SystemClock()
    if sandbox and endpoint:
        clock = SandboxClock(endpoint)
    # A supervised run has the id, and the folder, that its supervisor gave it.
    run = run or os.environ.get("BUDDY_OPS_RUN") or secrets.token_hex(4)
    role = settings.aws.assume_role
    if role:
        create = partial(session.create_client, region_name=region, endpoint_url=endpoint)
        _credentials.assume_role(session, role, name=f"buddy-ops-{run}", clock=clock, create_client=create)
    folder = _folder(runbook, environment, run=run, now=clock.now())
    # Names in the settings are no secrets, also where a variable of the function has one of them as its value.
    redactor = Redactor(settings.archive.redact, os.environ.get(FILE))
    redactor.never_redact(settings.model_dump(mode="json"))
    side = SideChannels()
    write: Callable[[str], None] = _keep_nothing
    if not quiet:
        write = JournalFile(folder / "journal.jsonl")
    # As the person's own AWS configuration asks; its old mode, legacy, is not taken.
    retry_mode: RetryMode = "standard"
    if session.get_config_variable("retry_mode") == "adaptive":
        retry_mode = "adaptive"
    return Target(
        environment=environment,
        settings=settings,
        runbook=runbook,
        clock=clock,
        journal=Journal(write, clock.now, redactor.redact_with_shared, side),
        side=side,
        session=session,
        region=region,
        endpoint_url=endpoint,
        sandbox=sandbox,
        run=run,
        folder=folder,
        redactor=redactor,
        dry_run=dry_run,
        retry_mode=retry_mode,
    )


def _read_values(environment: str, values: Mapping[str, object] | None) -> tuple[dict[str, object], str]:
    """The settings that were given, or those of the environment's file, and where they are from, for errors."""
    if not values:
        return project.read_settings(environment)
    if environment in project.environments():
        # papermill -f reads the file without our checks, and of a section given twice it drops the first.
        project.read_settings(environment)
    values, source = project.resolve_settings(values, "settings")
    given = project.NamedAlias.of(values)
    named = project.named_aliases()
    # Equal names in other regions or accounts are other functions. An alias that no file names belongs to whoever has
    # the function.
    owners = [name for name, owned in named.items() if owned == given]
    owners = owners or [name for name, owned in named.items() if owned[:2] == given[:2]]
    owners = owners or [name for name, owned in named.items() if owned.function == given.function]
    if not owners or environment in owners:
        return values, source
    where = ""
    if given.region:
        where = f" in {given.region}"
    # Freezes and rules go by the environment's name, so that another environment's function would evade its own.
    raise InvalidInput(
        "invalid-parameters",
        f"The settings that were given are for {given.function}:{given.alias}{where}, which is {owners[0]}'s, not "
        f"{environment}'s.",
        next="Give environment and settings that belong together, for example with -f and no -p environment.",
    )


def _keep_nothing(line: str) -> None:
    """Writes no journal."""


def _folder(runbook: str, environment: str, *, run: str, now: datetime) -> Path:
    if given := os.environ.get("BUDDY_OPS_RUN_FOLDER"):
        return Path(given)
    return project.project_root() / "runs" / _folder_name(runbook, environment, run=run, now=now)


def _folder_name(runbook: str, environment: str, *, run: str, now: datetime) -> str:
    # All runs are side by side in one folder.
    return f"{now:%Y-%m-%dT%H%MZ}-{runbook.replace('/', '-')}-{environment}-{run}"
