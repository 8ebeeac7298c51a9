"""Whether the hooks of rollouts can be asked. None is asked: no function runs, and nothing is sent to a webhook."""

import socket
import urllib.request
from urllib.parse import urlsplit

from buddy_ops.aws.notifications import read_secret
from buddy_ops.aws.versions import require_invocable
from buddy_ops.checks.findings import QUOTED, CheckContext, Finding, State, info, ok, problem, unknown, warning
from buddy_ops.core import places, runbooks
from buddy_ops.core.errors import AccessDenied, AwsFailed, BuddyError, InvalidInput, NotFound
from buddy_ops.core.settings import Hook
from buddy_ops.core.text import join_words
from buddy_ops.deployment.hooks import NOTEBOOK_PARAMETERS, is_allowed_address

WORST_FIRST = (State.PROBLEM, State.UNKNOWN, State.WARNING, State.INFO)


def hooks_state(context: CheckContext) -> Finding:
    """The finding about all hooks.

    AWS: lambda:InvokeFunction as a dry run, which runs nothing; ssm:GetParameter.
    """
    hooks = context.target.settings.hooks
    if not hooks:
        return ok("none configured (hooks)")
    found = [_hook_state(context, hook) for hook in hooks]
    for state in WORST_FIRST:
        bad = [finding for finding in found if finding.state is state]
        if bad:
            remedy = " ".join(dict.fromkeys(finding.remedy for finding in bad if finding.remedy))
            return Finding("", state, "; ".join(finding.message for finding in bad), remedy)
    return ok(join_words(f"{hook.name} ({hook.kind})" for hook in hooks))


def _hook_state(context: CheckContext, hook: Hook) -> Finding:
    if hook.notebook:
        return _notebook_state(hook)
    # Only a deployer asks hooks, so only a deployer has the permissions.
    if context.role != "deployer" and not str(hook.url).startswith("env:"):
        return info(f"{hook.name}: not checked, only a deployer may ask the {hook.kind}")
    if hook.function:
        return _function_state(context, hook)
    return _webhook_state(context, hook)


def _function_state(context: CheckContext, hook: Hook) -> Finding:
    try:
        require_invocable(context.target, hook.function)
    except NotFound:
        return problem(f"{hook.name}: there is no function {hook.function}", "Create it, or correct `hooks`.")
    except AccessDenied:
        remedy = "Deploy infrastructure.yaml with its ARN in HookFunctionArns."
        return problem(f"{hook.name}: the caller may not invoke {hook.function}", remedy)
    except AwsFailed as failure:
        return unknown(f"{hook.name}: {failure.what}"[:QUOTED], failure.next)
    return ok(hook.name)


def _webhook_state(context: CheckContext, hook: Hook) -> Finding:
    try:
        url = read_secret(context.target, str(hook.url))
    except BuddyError as error:
        return problem(f"{hook.name}: its address could not be read. {error.what}"[:QUOTED], error.next)
    if not is_allowed_address(url):
        return problem(f"{hook.name}: its address does not begin with https://", f"Correct it in {hook.url}.")
    parts = urlsplit(url)
    if urllib.request.getproxies().get(parts.scheme):
        return ok(hook.name)  # the proxy resolves the name
    try:
        socket.getaddrinfo(parts.hostname, parts.port or parts.scheme)
    # What follows the colon of an address need not be a port: that is the ValueError.
    except (OSError, ValueError):
        message = f"{hook.name}: the host of its address was not found from here"
        return warning(message, f"Correct {hook.url}, or check the name service where rollouts run.")
    return ok(hook.name)


def _notebook_state(hook: Hook) -> Finding:
    path = places.runbook_files().get(hook.notebook)
    if path is None:
        message = f"{hook.name}: there is no notebooks/{hook.notebook}.ipynb"
        return problem(message, "Create the notebook, or correct `hooks`.")
    try:
        declared = runbooks.read_declarations(path)
    except InvalidInput as error:
        return problem(f"{hook.name}: {error.what}"[:QUOTED], error.next)
    missing = [name for name in NOTEBOOK_PARAMETERS if name not in declared]
    if missing:
        message = f"{hook.name}: notebooks/{hook.notebook}.ipynb has no parameter {join_words(missing)}"
        return problem(message, "Add it to the cell with the tag `parameters`.")
    return ok(hook.name)
