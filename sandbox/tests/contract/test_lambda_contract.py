"""What a rollout takes for granted of Lambda: versions, revisions, aliases, weights, concurrency."""

import base64
import json
from typing import Any

import pytest
from contract_account import Account, build, settled
from serving import refusal

NOT_FOUND = "ResourceNotFoundException"
INVALID = "InvalidParameterValueException"
PRECONDITION = "PreconditionFailedException"


def alias(account: Account, function: str) -> dict[str, Any]:
    found: dict[str, Any] = account.client("lambda").get_alias(FunctionName=function, Name="live")
    return found


def route(account: Account, function: str, primary: str = "1", **weights: float) -> dict[str, Any]:
    """UpdateAlias with both fields, as every write of a rollout has them."""
    shares = {name.removeprefix("v"): weight for name, weight in weights.items()}
    answer: dict[str, Any] = account.client("lambda").update_alias(
        FunctionName=function,
        Name="live",
        FunctionVersion=primary,
        RoutingConfig={"AdditionalVersionWeights": shares},
    )
    return answer


def test_publishing_unchanged_code_gives_the_version_that_exists(account: Account, function: str) -> None:
    """And a hash or a revision that is not the present one is refused.

    Source: Lambda API reference, PublishVersion; recorded AWS responses, 2025-11-25, test_version_lifecycle.
    """
    lam = account.client("lambda")
    latest = settled(account, function)
    assert lam.publish_version(FunctionName=function, Description="again")["Version"] == "2"
    code, message = refusal(lam.publish_version, FunctionName=function, CodeSha256="other")
    assert code == INVALID and f"different from current CodeSHA256 in $LATEST ({latest['CodeSha256']})" in message
    assert refusal(lam.publish_version, FunctionName=function, RevisionId="stale")[0] == PRECONDITION
    assert (
        refusal(lam.update_function_code, FunctionName=function, ZipFile=build(3), RevisionId="stale")[0]
        == PRECONDITION
    )


def test_state_settles_under_another_revision(account: Account, function: str) -> None:
    """The RevisionId of an update is not the one that is valid once the update is applied.

    Source: recorded AWS responses, 2025-11-25, test_function_revisions_basic.
    """
    lam = account.client("lambda")
    changed = lam.update_function_configuration(FunctionName=function, Description="contract")
    assert changed["LastUpdateStatus"] == "InProgress"
    after = settled(account, function)
    assert after["RevisionId"] != changed["RevisionId"] and after["CodeSha256"] == changed["CodeSha256"]


def test_weights_are_stored_rotate_the_revision_and_are_cleared(account: Account, function: str) -> None:
    """Weights down to .05 %; without RoutingConfig they stay, an empty map clears them.

    Source: recorded AWS responses, 2025-11-25, test_alias_lifecycle; Lambda API reference, UpdateAlias.
    """
    lam, seen = account.client("lambda"), [alias(account, function)["RevisionId"]]
    for weight in (0.0005, 0.1, 1.0):
        answer = route(account, function, v2=weight)
        assert answer["RoutingConfig"] == {"AdditionalVersionWeights": {"2": weight}}
        seen.append(answer["RevisionId"])
    kept = lam.update_alias(FunctionName=function, Name="live", Description="kept")
    assert kept["RoutingConfig"] == {"AdditionalVersionWeights": {"2": 1.0}} and kept["FunctionVersion"] == "1"
    cleared = route(account, function)
    assert "RoutingConfig" not in cleared and "RoutingConfig" not in alias(account, function)
    assert len({*seen, kept["RevisionId"], cleared["RevisionId"]}) == 6
    stale = {"FunctionName": function, "Name": "live", "FunctionVersion": "2", "RevisionId": seen[0]}
    assert refusal(lam.update_alias, **stale)[0] == PRECONDITION
    assert alias(account, function)["FunctionVersion"] == "1"


@pytest.mark.parametrize(
    ("primary", "weights", "code"),
    [
        ("1", {"v1": 0.5}, INVALID),
        ("1", {"v2": 0.5, "v1": 0.5}, INVALID),
        ("$LATEST", {"v2": 0.5}, INVALID),
        ("1", {"v2": 1.5}, "ValidationException"),
        ("1", {"v99": 0.5}, NOT_FOUND),
        ("99", {}, NOT_FOUND),
    ],
)
def test_routing_that_cannot_be_is_refused(
    account: Account, function: str, primary: str, weights: dict[str, float], code: str
) -> None:
    """A refused write leaves the alias as it was.

    Source: recorded AWS responses, 2025-11-25, test_notfound_and_invalid_routingconfigs.
    """
    before = alias(account, function)
    assert refusal(route, account=account, function=function, primary=primary, **weights)[0] == code
    after = alias(account, function)
    assert (after["RevisionId"], after["FunctionVersion"]) == (before["RevisionId"], before["FunctionVersion"])


def test_what_does_not_exist_is_not_found(account: Account, function: str) -> None:
    """Alias, version and function: by the same code.

    Source: recorded AWS responses, 2025-11-25, test_ops_on_nonexisting_fn, test_non_existent_alias_update.
    """
    lam = account.client("lambda")
    assert refusal(lam.get_alias, FunctionName=function, Name="none")[0] == NOT_FOUND
    assert refusal(lam.update_alias, FunctionName=function, Name="none", FunctionVersion="1")[0] == NOT_FOUND
    assert refusal(lam.get_function_configuration, FunctionName=function, Qualifier="99")[0] == NOT_FOUND
    assert refusal(lam.get_function_configuration, FunctionName=f"{function}-none")[0] == NOT_FOUND
    assert refusal(lam.get_policy, FunctionName=function, Qualifier="live")[0] == NOT_FOUND
    assert refusal(lam.invoke, FunctionName=function, Qualifier="none")[0] == NOT_FOUND


def test_version_behind_an_alias_cannot_be_deleted(account: Account, function: str) -> None:
    """Nor one that an alias only gives a share.

    Source: Lambda API reference, DeleteFunction.
    """
    route(account, function, v2=0.1)
    lam = account.client("lambda")
    assert refusal(lam.delete_function, FunctionName=function, Qualifier="1")[0] == "ResourceConflictException"
    assert refusal(lam.delete_function, FunctionName=function, Qualifier="2")[0] == "ResourceConflictException"
    route(account, function)


def test_invocation_of_an_alias_names_the_version_that_ran(account: Account, function: str) -> None:
    """And the end of its log has Lambda's report.

    Source: Lambda API reference, Invoke.
    """
    lam = account.client("lambda")
    for primary, number in (("2", 2), ("1", 1)):
        route(account, function, primary)

        def reply(expected: str = primary) -> dict[str, Any]:
            # Routing takes a moment.
            ran: dict[str, Any] = lam.invoke(FunctionName=function, Qualifier="live", LogType="Tail", Payload=b"{}")
            return ran if ran["ExecutedVersion"] == expected else {}

        ran = account.wait(reply)
        assert json.load(ran["Payload"]) == {"number": number}
        assert "REPORT RequestId: " in base64.b64decode(ran["LogResult"]).decode()


def test_concurrency_of_zero_turns_every_request_away(account: Account, function: str) -> None:
    """And without the reservation requests are served again.

    Source: Lambda API reference, PutFunctionConcurrency; recorded AWS response, 2025-11-24, test_lambda_concurrency_block.
    """
    lam = account.client("lambda")
    assert (
        lam.put_function_concurrency(FunctionName=function, ReservedConcurrentExecutions=0)[
            "ReservedConcurrentExecutions"
        ]
        == 0
    )

    def throttled() -> bool:
        try:
            lam.invoke(FunctionName=function, Qualifier="live", Payload=b"{}")
        except lam.exceptions.TooManyRequestsException:
            return True
        return False

    try:
        account.wait(throttled)
        assert lam.get_function_concurrency(FunctionName=function)["ReservedConcurrentExecutions"] == 0
    finally:
        lam.delete_function_concurrency(FunctionName=function)
    assert "ReservedConcurrentExecutions" not in lam.get_function_concurrency(FunctionName=function)
    account.wait(lambda: not throttled())


def test_tags_rotate_the_revision(account: Account, function: str) -> None:
    """A write with the RevisionId of before is refused.

    Source: recorded AWS response, 2025-11-25, TestLambdaTags::test_tag_lifecycle.
    """
    lam = account.client("lambda")
    before = settled(account, function)
    lam.tag_resource(Resource=before["FunctionArn"], Tags={"contract": "yes"})
    assert settled(account, function)["RevisionId"] != before["RevisionId"]


def test_account_settings_have_limits(account: Account) -> None:
    """Concurrency and code storage, and what of them is used.

    Source: Lambda API reference, GetAccountSettings.
    """
    found = account.client("lambda").get_account_settings()
    limit, usage = found["AccountLimit"], found["AccountUsage"]
    assert limit["ConcurrentExecutions"] >= limit["UnreservedConcurrentExecutions"] > 0
    assert limit["TotalCodeSize"] > usage["TotalCodeSize"] and usage["FunctionCount"] >= 0
