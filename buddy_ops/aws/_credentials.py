"""How to reach AWS: the sandbox or not, which profile and region, and which role to assume."""

import os
from collections.abc import Callable
from functools import cache
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.parse import urlparse

from botocore import exceptions as botocore
from botocore.client import BaseClient
from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials
from botocore.loaders import Loader, create_loader
from botocore.session import Session

from buddy_ops.aws import _client, _replies
from buddy_ops.aws.clock import Clock
from buddy_ops.aws.sandbox_control import LOOPBACK, TOKEN_NEXT, TOKEN_WRONG, ask_sandbox, token_is_wrong
from buddy_ops.core.errors import AwsFailed, InvalidInput
from buddy_ops.core.settings import Settings

SANDBOX_KEY = "sandbox"
"""Both keys of the sandbox's default account: no secret."""


def is_sandbox(endpoint: str) -> bool:
    """Whether the sandbox listens at an address.

    Raises:
        AwsFailed: ``sandbox-not-running``, ``sandbox-token``.
    """
    # Elsewhere it is AWS behind a VPC endpoint or a proxy, which gets no control call.
    if urlparse(endpoint).hostname not in LOOPBACK:
        return False
    try:
        return bool(ask_sandbox(endpoint, "status", {}, timeout_s=5).get("sandbox"))
    except HTTPError as error:
        if token_is_wrong(error):
            raise AwsFailed(
                "sandbox-token", TOKEN_WRONG.format(endpoint), next=TOKEN_NEXT, code="sandbox-token"
            ) from None
        return False  # something else that listens there: another AWS emulator, with the system's time
    # What listens there speaks no HTTP, or answers no JSON, or JSON that is no object.
    except (HTTPException, ValueError, AttributeError):
        return False
    except OSError as error:
        raise AwsFailed(
            "sandbox-not-running",
            f"Nothing answers at {endpoint}, where the sandbox should be ({error}).",
            next="Start it with `buddy-ops sandbox start`, or set AWS_ENDPOINT_URL to where it listens.",
            code="sandbox-not-running",
        ) from None


def open_session(settings: Settings, sandbox: bool) -> tuple[Session, str]:
    """A botocore session, and its region.

    Raises:
        InvalidInput: ``no-profile`` or ``no-region``.
    """
    try:
        # botocore's own session: boto3's would bring file transfers along, a tenth of a second in every command.
        session = Session(profile=None if sandbox else settings.aws.profile)
        session.register("creating-client-class", _client.add_recorder)  # type: ignore[arg-type]
        session.register_component("response_parser_factory", _replies.ParserFactory())
        session.register_component("data_loader", _loader(session.get_config_variable("data_path")))
        if sandbox:
            session.set_credentials(SANDBOX_KEY, SANDBOX_KEY)
        else:
            # botocore reads the profile when it is first used: here a missing one is found before any call.
            session.get_scoped_config()
    except botocore.ProfileNotFound as error:
        raise InvalidInput(
            "no-profile",
            f"{error}.",
            next="Set AWS_PROFILE to a profile of `aws configure list-profiles`, or correct settings.aws.profile.",
        ) from None
    # botocore itself ignores AWS_REGION.
    region = settings.aws.region or os.environ.get("AWS_REGION") or session.get_config_variable("region")
    if not region:
        raise InvalidInput(
            "no-region",
            "No AWS region is set.",
            next="Set settings.aws.region in the environment's parameters/ file, or AWS_REGION.",
        )
    return session, region


@cache
def _loader(data_path: str | None) -> Loader:
    """What reads the models of services, once for all sessions: each takes a tenth of a second."""
    return create_loader(data_path)


def assume_role(
    session: Session, role: str, *, name: str, clock: Clock, create_client: Callable[..., BaseClient]
) -> None:
    """Let a session act as a role. AWS: sts:AssumeRole, at the first call and whenever it is about to expire."""
    own = session.get_credentials()
    if own is None:
        return  # the first call says so
    fetcher = AssumeRoleCredentialFetcher(create_client, own, role, extra_args={"RoleSessionName": name})
    # The keys expire by AWS's time: this machine's clock may be off, and the sandbox has a time of its own.
    # botocore has no public way to give a session refreshable credentials.
    refreshable = DeferredRefreshableCredentials(fetcher.fetch_credentials, "assume-role", clock.now)
    session._credentials = refreshable  # type: ignore[attr-defined]
