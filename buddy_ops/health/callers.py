"""Whether callers use the alias: a rollout protects no request that calls the function without it."""

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta

from buddy_ops.aws.session import Target
from buddy_ops.core import project
from buddy_ops.core.documents import parse_json
from buddy_ops.core.errors import AwsFailed, NotFound
from buddy_ops.core.text import count, percent
from buddy_ops.health import metrics

DAY = timedelta(hours=24)
UNSURE = timedelta(minutes=5)

FEW = 10
"""So many requests past the alias, smoke tests and people's own, are no sign."""

SHARE = 0.02
"""Nor is a share below this: the two metrics are published at different times."""

MOST_NAMES = 50
"""How many of the names that callers used are counted, those with a qualifier first."""

SHOWN_NAMES = 3
INVOKE = ("lambda:Invoke", "lambda:*", "*")
"""How an action of a resource policy begins that allows to call the function."""

NOT_MEASURED = "No request was measured in the last 24 h, by any name: who calls the function is unknown."


@dataclass(frozen=True)
class CallersReading:
    """Who calls the function, and by what name.

    Attributes:
        signs: what shows that callers do not use the alias, a sentence each; empty: nothing does.
        unread: what could not be read, a sentence each.
        requests: all requests of the last 24 hours; None if unknown.
        past: those of them that did not call an environment's alias, where they are more than a few; else 0.
    """

    signs: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    requests: int | None = None
    past: int = 0

    @property
    def mostly_past(self) -> bool:
        """Whether most requests do not use the alias: neither a rollout nor a rollback moves them."""
        return self.requests is not None and 2 * self.past > self.requests


def read_callers(target: Target) -> CallersReading:
    """Compare the requests of the last 24 hours by the names that they called, and read who is allowed to call.

    AWS: cloudwatch:GetMetricData, ListMetrics, lambda:GetPolicy, reads only.
    """
    signs: list[str] = []
    unread: list[str] = []
    requests: int | None = None
    past = 0
    try:
        # What was called, by CloudWatch.
        requests, by_name = _count(target)
        past = by_name.total()
    except AwsFailed as failure:
        unread.append(failure.what)
    if requests is not None and past:
        names = ", ".join(f"{number:,} {name}" for name, number in by_name.most_common(SHOWN_NAMES))
        signs.append(
            f"{count(past, 'request')} of {requests:,} in the last 24 h ({percent(past / requests)}) did not call "
            f"{target.resource}: {names}. A share on the alias does not protect them."
        )
    try:
        # Who may call, by the policies: without a permission on the alias, a caller must name the function.
        principals = list_invokers(target, "") - list_invokers(target, target.settings.alias)
    except AwsFailed as failure:
        unread.append(failure.what)
        principals = set()
    if principals:
        signs.append(
            f"The function's resource policy lets {', '.join(sorted(principals))} call it without the alias, and the "
            f"alias's own policy does not."
        )
    return CallersReading(tuple(signs), tuple(unread), requests, past)


def remedy(target: Target) -> str:
    """What to do about callers that do not use the alias."""
    return (
        f"Let every caller use the ARN that ends in :{target.settings.alias}, and "
        f"give the permission to the alias (aws lambda add-permission --qualifier {target.settings.alias})."
    )


def _count(target: Target) -> tuple[int, Counter[str]]:
    """All requests, and those that called no environment's alias, where they are more than a few, by what they called.

    Raises:
        AwsFailed: CloudWatch did not answer, or not for all names.
    """
    function = target.settings.function
    # Another alias that an environment's file names is that environment's own.
    named = {f"{each.function}:{each.alias}" for each in project.named_aliases().values() if each.function == function}
    own = sorted({target.resource, *named})
    # What CloudWatch has not published yet is missing in one metric and not in the other.
    until = metrics.published_until(target, target.clock.now()) - UNSURE
    since = until - DAY
    found = metrics.count_callers(target, own, since, until)
    total = found.pop("")
    by_alias = sum(found.values())
    # An alias's requests are among the function's: with more of them, one of both metrics is late or cut.
    if by_alias > total + FEW and by_alias > (1 + SHARE) * total:
        raise AwsFailed(
            "metrics-unreadable",
            f"CloudWatch has {by_alias:,} requests of {function}'s aliases, but {total:,} of the function as a whole.",
            next="Try again in a minute.",
            code="malformed",
        )
    past = total - by_alias
    if past <= FEW or past <= SHARE * total:
        return total, Counter()
    others = [name for name in metrics.list_called(target) if ":" in name and name not in own][:MOST_NAMES]
    called = Counter(metrics.count_callers(target, others, since, until))
    # All requests, by whichever name, are no caller's.
    del called[""]
    rest = past - called.total()
    if rest > 0:
        called[f"{function} without a qualifier ($LATEST)"] = rest
    # Counter's plus leaves out names without requests.
    return total, +called


def list_invokers(target: Target, alias: str) -> set[str]:
    """Who may call the function, or its alias, by the resource policy."""
    client = target.client("lambda")
    function = target.settings.function
    try:
        if alias:
            text = client.get_policy(FunctionName=function, Qualifier=alias)["Policy"]
        else:
            text = client.get_policy(FunctionName=function)["Policy"]
        statements = parse_json(text)["Statement"]
    except NotFound:
        return set()
    except (ValueError, KeyError, TypeError) as error:
        raise AwsFailed(
            "aws-refused",
            f"The resource policy of {function} could not be read ({error}).",
            next="Check it in the Lambda console.",
            code="malformed",
        ) from None
    found = set()
    for statement in statements:
        # "*", {"Service": "s3.amazonaws.com"} or {"AWS": "arn:..."}
        principal = statement.get("Principal", "*")
        actions = statement.get("Action", "")
        actions = [actions] if isinstance(actions, str) else actions
        if statement.get("Effect") == "Allow" and any(action.startswith(INVOKE) for action in actions):
            found.add(principal if isinstance(principal, str) else str(next(iter(principal.values()), "*")))
    return found
