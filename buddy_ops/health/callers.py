"""Whether callers use the alias: a rollout protects no request that calls the function without it."""

from datetime import timedelta

from buddy_ops.aws.session import Target
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


def callers_past_alias(target: Target) -> list[str]:
    """What shows that callers do not use the alias, a sentence each; none: nothing does.

    AWS: cloudwatch:GetMetricData, lambda:GetPolicy, reads only.

    Raises:
        AwsFailed: neither could be read.
    """
    found = []
    # What CloudWatch has not published yet is missing in one metric and not in the other.
    until = metrics.published_until(target, target.clock.now()) - UNSURE
    total, by_alias = metrics.count_callers(target, until - DAY, until)
    past = total - by_alias
    if past > FEW and past > SHARE * total:
        found.append(
            f"{count(past, 'request')} of {total:,} in the last 24 h ({percent(past / total)}) did not "
            f"call {target.resource}: they reach $LATEST, or another alias or version. A share on the alias does not "
            "protect them."
        )
    principals = _invokers(target, "") - _invokers(target, target.settings.alias)
    if principals:
        found.append(
            f"The function's resource policy lets {', '.join(sorted(principals))} call it without the alias, and the "
            f"alias's own policy does not."
        )
    return found


def remedy(target: Target) -> str:
    """What to do about them."""
    return (
        f"Let every caller use the ARN that ends in :{target.settings.alias} (for Alexa: the skill's endpoint), and "
        f"give the permission to the alias (aws lambda add-permission --qualifier {target.settings.alias})."
    )


def _invokers(target: Target, alias: str) -> set[str]:
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
        principal = statement.get("Principal", "*")
        if statement.get("Effect") == "Allow" and "Invoke" in str(statement.get("Action", "")):
            found.add(principal if isinstance(principal, str) else str(next(iter(principal.values()), "*")))
    return found
