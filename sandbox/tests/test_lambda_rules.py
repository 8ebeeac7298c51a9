"""AWS Lambda's rules, one test each, through boto3 alone.

They run against the sandbox; with BUDDY_CONTRACT_ROLE (a role's ARN that functions may run as) in the environment, and
credentials, against a real account instead. BUDDY_CONTRACT_OTHER_ROLE is a second such role.
'Recorded' means: seen in responses of real AWS that public test suites keep, the latest from 2025-11.
"""

import base64
import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from lambda_serving import ROLE, create, package, serve

A, B = package("def handler(event, context): return 'a'"), package("def handler(event, context): return 'b'")


@dataclass
class Account:
    """Where the rules are tried. ``settle(name, qualifier)`` waits until an update or a new version has settled."""

    lam: Any
    role: str
    other_role: str | None
    settle: Callable[..., None]


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    """The sandbox's account, or a real one if the environment names a role."""
    if role := os.environ.get("BUDDY_CONTRACT_ROLE"):
        lam = boto3.client("lambda")

        def wait(name: str, qualifier: str = "$LATEST") -> None:
            waiter = "function_updated_v2" if qualifier == "$LATEST" else "published_version_active"
            lam.get_waiter("function_active_v2").wait(FunctionName=name)
            lam.get_waiter(waiter).wait(FunctionName=name, Qualifier=qualifier)

        yield Account(lam, role, os.environ.get("BUDDY_CONTRACT_OTHER_ROLE"), wait)
        return
    with serve() as served:
        yield Account(served.lam, ROLE, f"{ROLE}-other", lambda *_: served.settle())


@pytest.fixture
def lam(account: Account) -> Any:
    """The account's Lambda client."""
    return account.lam


@pytest.fixture
def fn(account: Account) -> Iterator[str]:
    """A function with settled code A and no version."""
    name = f"buddy-contract-{uuid.uuid4().hex[:8]}"
    create(account.lam, name, A, Role=account.role, Tags={"purpose": "contract"})
    account.settle(name)
    yield name
    account.lam.delete_function(FunctionName=name)


@pytest.fixture
def two(account: Account, fn: str) -> str:
    """A function with versions 1 (code A) and 2 (code B), and the alias live on 1."""
    account.lam.publish_version(FunctionName=fn)
    account.settle(fn, "1")
    account.lam.update_function_code(FunctionName=fn, ZipFile=B)
    account.settle(fn)
    account.lam.publish_version(FunctionName=fn)
    account.settle(fn, "2")
    account.lam.create_alias(FunctionName=fn, Name="live", FunctionVersion="1")
    return fn


def refusal(call: Callable[..., Any], **params: Any) -> tuple[str, int]:
    """The code and status that a call is refused with."""
    with pytest.raises(ClientError) as refused:
        call(**params)
    response = refused.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def weights(**shares: float) -> dict[str, Any]:
    """A RoutingConfig: ``v2=0.1`` is a tenth for version 2."""
    return {"AdditionalVersionWeights": {name.removeprefix("v"): share for name, share in shares.items()}}


INVALID, VALIDATION = ("InvalidParameterValueException", 400), ("ValidationException", 400)
MISSING, CONFLICT = ("ResourceNotFoundException", 404), ("ResourceConflictException", 409)
STALE = ("PreconditionFailedException", 412)


# RevisionId


def test_stale_revision_refuses_alias_update(lam: Any, two: str) -> None:
    """An UpdateAlias with another RevisionId than the alias's own is refused and changes nothing.

    Source: AWS Lambda API reference, UpdateAlias; recorded.
    """
    before = lam.get_alias(FunctionName=two, Name="live")
    assert refusal(lam.update_alias, FunctionName=two, Name="live", FunctionVersion="2", RevisionId="wrong") == STALE
    after = lam.get_alias(FunctionName=two, Name="live")
    assert (after["FunctionVersion"], after["RevisionId"]) == ("1", before["RevisionId"])


def test_every_alias_update_rotates_the_revision(lam: Any, two: str) -> None:
    """UpdateAlias gives a new RevisionId even when it changes nothing, and the old one is stale from then on.

    Source: recorded against AWS, 2025-11.
    """
    first = lam.get_alias(FunctionName=two, Name="live")["RevisionId"]
    second = lam.update_alias(FunctionName=two, Name="live", RevisionId=first)["RevisionId"]
    assert second != first
    assert lam.get_alias(FunctionName=two, Name="live")["RevisionId"] == second
    assert refusal(lam.update_alias, FunctionName=two, Name="live", RevisionId=first) == STALE


@pytest.mark.parametrize("operation", ["update_function_code", "update_function_configuration", "publish_version"])
def test_stale_revision_refuses_function_writes(lam: Any, fn: str, operation: str) -> None:
    """Writes to a function with another RevisionId than $LATEST's are refused.

    Source: AWS Lambda API reference, UpdateFunctionCode, UpdateFunctionConfiguration, PublishVersion; recorded.
    """
    more = {"ZipFile": B} if operation == "update_function_code" else {}
    assert refusal(getattr(lam, operation), FunctionName=fn, RevisionId="wrong", **more) == STALE


def test_function_revision_changes_again_when_an_update_settles(account: Account, lam: Any, fn: str) -> None:
    """$LATEST's RevisionId changes with an update and again when LastUpdateStatus becomes Successful.

    Source: recorded against AWS, 2025-11.
    """
    before = lam.get_function_configuration(FunctionName=fn)["RevisionId"]
    during = lam.update_function_code(FunctionName=fn, ZipFile=A, RevisionId=before)["RevisionId"]
    account.settle(fn)
    after = lam.get_function_configuration(FunctionName=fn)["RevisionId"]
    assert len({before, during, after}) == 3


def test_publishing_rotates_latest_but_activation_does_not_rotate_the_version(
    account: Account, lam: Any, fn: str
) -> None:
    """PublishVersion changes $LATEST's RevisionId; the version keeps its own as it becomes Active.

    Source: recorded against AWS, 2025-11.
    """
    before = lam.get_function_configuration(FunctionName=fn)["RevisionId"]
    published = lam.publish_version(FunctionName=fn, RevisionId=before)
    account.settle(fn, published["Version"])
    version = lam.get_function_configuration(FunctionName=fn, Qualifier=published["Version"])
    assert (version["State"], version["RevisionId"]) == ("Active", published["RevisionId"])
    assert lam.get_function_configuration(FunctionName=fn)["RevisionId"] not in (before, published["RevisionId"])


def test_creating_an_alias_rotates_no_other_revision(lam: Any, two: str) -> None:
    """CreateAlias changes neither $LATEST's RevisionId nor its version's.

    Source: recorded against AWS, 2025-11.
    """

    def read() -> list[str]:
        return [lam.get_function_configuration(FunctionName=two, Qualifier=q)["RevisionId"] for q in ("$LATEST", "1")]

    before = read()
    lam.create_alias(FunctionName=two, Name="other", FunctionVersion="1")
    assert read() == before


def test_permissions_rotate_the_function_revision(lam: Any, fn: str) -> None:
    """AddPermission and RemovePermission change the function's RevisionId, which the policy shows too.

    Source: recorded against AWS, 2025-11.
    """
    first = lam.get_function_configuration(FunctionName=fn)["RevisionId"]
    statement = {"StatementId": "alarms", "Action": "lambda:InvokeFunction"}
    statement["Principal"] = "lambda.alarms.cloudwatch.amazonaws.com"
    assert refusal(lam.add_permission, FunctionName=fn, RevisionId="wrong", **statement) == STALE
    lam.add_permission(FunctionName=fn, RevisionId=first, **statement)
    second = lam.get_policy(FunctionName=fn)["RevisionId"]
    assert second == lam.get_function_configuration(FunctionName=fn)["RevisionId"] != first
    assert refusal(lam.add_permission, FunctionName=fn, **statement) == CONFLICT
    lam.remove_permission(FunctionName=fn, StatementId="alarms", RevisionId=second)
    assert lam.get_function_configuration(FunctionName=fn)["RevisionId"] != second
    assert refusal(lam.get_policy, FunctionName=fn) == MISSING


# Routing


def test_one_additional_version_at_most(lam: Any, two: str) -> None:
    """An alias routes to one additional version at most. Source: recorded against AWS, 2025-11."""
    assert refusal(lam.update_alias, FunctionName=two, Name="live", RoutingConfig=weights(v1=0.1, v2=0.1)) == INVALID


def test_weight_above_one_is_refused(lam: Any, two: str) -> None:
    """A weight lies within 0.0..1.0. Source: botocore's service model, Weight; recorded against AWS, 2025-11."""
    assert refusal(lam.update_alias, FunctionName=two, Name="live", RoutingConfig=weights(v2=1.5)) == VALIDATION


@pytest.mark.parametrize("share", [0.0, 0.05, 1.0])
def test_weights_from_zero_to_one_are_kept(lam: Any, two: str, share: float) -> None:
    """GetAlias shows the weight as it was set, the ends of the range included. Source: botocore's model, Weight."""
    lam.update_alias(FunctionName=two, Name="live", RoutingConfig=weights(v2=share))
    assert lam.get_alias(FunctionName=two, Name="live")["RoutingConfig"] == weights(v2=share)


def test_latest_cannot_stand_behind_weights(lam: Any, two: str) -> None:
    """$LATEST cannot be the additional version. Source: recorded against AWS, 2025-11."""
    routing = {"AdditionalVersionWeights": {"$LATEST": 0.5}}
    assert refusal(lam.update_alias, FunctionName=two, Name="live", RoutingConfig=routing) == VALIDATION


def test_latest_cannot_be_primary_with_weights(lam: Any, two: str) -> None:
    """$LATEST is no primary for an alias with weights, though it is for one without.

    Source: recorded against AWS, 2025-11.
    """
    given = {"FunctionName": two, "Name": "latest", "FunctionVersion": "$LATEST"}
    assert refusal(lam.create_alias, **given, RoutingConfig=weights(v1=0.5)) == INVALID
    assert lam.create_alias(**given)["FunctionVersion"] == "$LATEST"


def test_the_second_version_differs_from_the_primary(lam: Any, two: str) -> None:
    """The additional version cannot be the primary. Source: recorded against AWS, 2025-11."""
    assert refusal(lam.update_alias, FunctionName=two, Name="live", RoutingConfig=weights(v1=0.5)) == INVALID


def test_versions_of_an_alias_exist(lam: Any, two: str) -> None:
    """Neither primary nor additional version may be one that does not exist. Source: recorded against AWS, 2025-11."""
    assert refusal(lam.update_alias, FunctionName=two, Name="live", FunctionVersion="9") == MISSING
    assert refusal(lam.update_alias, FunctionName=two, Name="live", RoutingConfig=weights(v9=0.5)) == MISSING


def test_both_versions_have_the_same_role(account: Account, lam: Any, two: str) -> None:
    """Versions of a split alias have the same execution role.

    Source: AWS Lambda developer guide, weighted aliases; serverless-plugin-aws-alias issue 64.
    """
    if account.other_role is None:
        pytest.skip("needs BUDDY_CONTRACT_OTHER_ROLE")
    lam.update_function_configuration(FunctionName=two, Role=account.other_role)
    account.settle(two)
    lam.publish_version(FunctionName=two)
    account.settle(two, "3")
    assert refusal(lam.update_alias, FunctionName=two, Name="live", RoutingConfig=weights(v3=0.1)) == INVALID
    assert lam.update_alias(FunctionName=two, Name="live", FunctionVersion="3")["FunctionVersion"] == "3"


@pytest.mark.skipif("BUDDY_CONTRACT_ROLE" in os.environ, reason="needs a queue that the role may send to")
def test_both_versions_have_the_same_dead_letter_queue(account: Account, lam: Any, two: str) -> None:
    """Versions of a split alias have the same dead-letter queue, or none both.

    Source: AWS Lambda developer guide, weighted aliases.
    """
    queue = {"TargetArn": "arn:aws:sqs:us-east-1:123456789012:lost"}
    lam.update_function_configuration(FunctionName=two, DeadLetterConfig=queue)
    account.settle(two)
    lam.publish_version(FunctionName=two)
    assert refusal(lam.update_alias, FunctionName=two, Name="live", RoutingConfig=weights(v3=0.1)) == INVALID


def test_omitted_routing_is_kept_and_omitted_version_too(lam: Any, two: str) -> None:
    """UpdateAlias without RoutingConfig keeps the weights, without FunctionVersion the primary.

    Source: AWS CLI examples of update-alias (FunctionVersion); undocumented for RoutingConfig.
    """
    lam.update_alias(FunctionName=two, Name="live", RoutingConfig=weights(v2=0.1))
    kept = lam.update_alias(FunctionName=two, Name="live", Description="why")
    assert (kept["FunctionVersion"], kept["RoutingConfig"], kept["Description"]) == ("1", weights(v2=0.1), "why")


@pytest.mark.parametrize("empty", [{}, {"AdditionalVersionWeights": {}}])
def test_empty_routing_clears_the_weights(lam: Any, two: str, empty: dict[str, Any]) -> None:
    """An empty RoutingConfig, or one with an empty map, clears the weights; GetAlias then has no RoutingConfig.

    Source: recorded against AWS, 2025-11 (the map).
    """
    lam.update_alias(FunctionName=two, Name="live", RoutingConfig=weights(v2=0.1))
    cleared = lam.update_alias(FunctionName=two, Name="live", FunctionVersion="1", RoutingConfig=empty)
    assert "RoutingConfig" not in cleared
    assert "RoutingConfig" not in lam.get_alias(FunctionName=two, Name="live")


# Aliases


@pytest.mark.parametrize("name", ["$LIVE", "2024", "li.ve"])
def test_alias_names_have_a_pattern(lam: Any, two: str, name: str) -> None:
    """An alias's name has letters, digits, hyphen and underscore only, and is no number.

    Source: botocore's service model, Alias; recorded (a number).
    """
    assert refusal(lam.create_alias, FunctionName=two, Name=name, FunctionVersion="1") == VALIDATION


def test_alias_description_has_256_characters_at_most(lam: Any, two: str) -> None:
    """A Description of 256 characters is kept whole, one of 257 refused. Source: botocore's model, Description."""
    assert lam.update_alias(FunctionName=two, Name="live", Description="x" * 256)["Description"] == "x" * 256
    assert refusal(lam.update_alias, FunctionName=two, Name="live", Description="x" * 257) == VALIDATION


def test_aliases_are_created_once_and_must_exist(lam: Any, two: str) -> None:
    """A second CreateAlias of a name conflicts; reading and updating an unknown one finds nothing; deleting is quiet.

    Source: recorded against AWS, 2025-11.
    """
    assert refusal(lam.create_alias, FunctionName=two, Name="live", FunctionVersion="2") == CONFLICT
    assert refusal(lam.get_alias, FunctionName=two, Name="absent") == MISSING
    assert refusal(lam.update_alias, FunctionName=two, Name="absent") == MISSING
    assert lam.delete_alias(FunctionName=two, Name="absent")["ResponseMetadata"]["HTTPStatusCode"] == 204


def test_aliases_are_listed_by_version(lam: Any, two: str) -> None:
    """ListAliases with a FunctionVersion gives the aliases with that primary. Source: API reference, ListAliases."""
    lam.create_alias(FunctionName=two, Name="next", FunctionVersion="2")
    assert [alias["Name"] for alias in lam.list_aliases(FunctionName=two)["Aliases"]] == ["live", "next"]
    assert [a["Name"] for a in lam.list_aliases(FunctionName=two, FunctionVersion="2")["Aliases"]] == ["next"]


# Publishing


def test_publishing_the_unchanged_returns_the_existing_version(account: Account, lam: Any, two: str) -> None:
    """Publishing code and configuration as last published gives 201, that version, and ignores the Description.

    Source: AWS Lambda developer guide, versions; recorded against AWS, 2025-11.
    """
    lam.update_function_code(FunctionName=two, ZipFile=B)
    account.settle(two)
    again = lam.publish_version(FunctionName=two, Description="anew")
    assert (again["ResponseMetadata"]["HTTPStatusCode"], again["Version"], again["Description"]) == (201, "2", "")
    assert len(lam.list_versions_by_function(FunctionName=two)["Versions"]) == 3


def test_publishing_compares_with_the_last_version_only(account: Account, lam: Any, two: str) -> None:
    """Code that equals an older version's is published anew. Source: AWS Lambda developer guide, versions."""
    lam.update_function_code(FunctionName=two, ZipFile=A)
    account.settle(two)
    assert lam.publish_version(FunctionName=two)["Version"] == "3"


def test_a_changed_configuration_is_a_new_version(account: Account, lam: Any, two: str) -> None:
    """A new environment variable alone makes a new version, and older versions keep their own configuration.

    Source: AWS Lambda developer guide, versions; recorded against AWS, 2025-11.
    """
    lam.update_function_configuration(FunctionName=two, Environment={"Variables": {"FLAG": "on"}})
    account.settle(two)
    assert lam.publish_version(FunctionName=two)["Version"] == "3"
    assert "Environment" not in lam.get_function_configuration(FunctionName=two, Qualifier="2")


def test_publishing_another_code_than_expected_is_refused(lam: Any, fn: str) -> None:
    """A CodeSha256 that is not $LATEST's refuses the publish; it is the zip's SHA-256 in base64.

    Source: AWS Lambda API reference, PublishVersion; recorded against AWS, 2025-11.
    """
    assert refusal(lam.publish_version, FunctionName=fn, CodeSha256="somenonexistentsha256") == INVALID
    sha256 = base64.b64encode(hashlib.sha256(A).digest()).decode()
    assert lam.publish_version(FunctionName=fn, CodeSha256=sha256)["CodeSha256"] == sha256


def test_version_numbers_are_never_reused(account: Account, lam: Any, two: str) -> None:
    """After a delete, the next version gets the number after the highest ever given.

    Source: AWS Lambda developer guide, versions.
    """
    lam.delete_function(FunctionName=two, Qualifier="2")
    lam.update_function_code(FunctionName=two, ZipFile=A)
    account.settle(two)
    assert lam.publish_version(FunctionName=two)["Version"] == "3"
    assert refusal(lam.get_function, FunctionName=two, Qualifier="2") == MISSING


def test_a_version_that_an_alias_references_cannot_be_deleted(lam: Any, two: str) -> None:
    """A version that an alias names, as primary or behind weights, cannot be deleted.

    Source: AWS Lambda API reference, DeleteFunction.
    """
    lam.update_alias(FunctionName=two, Name="live", RoutingConfig=weights(v2=0.0))
    assert refusal(lam.delete_function, FunctionName=two, Qualifier="1") == CONFLICT
    assert refusal(lam.delete_function, FunctionName=two, Qualifier="2") == CONFLICT
    lam.update_alias(FunctionName=two, Name="live", RoutingConfig={})
    lam.delete_function(FunctionName=two, Qualifier="2")


def test_neither_latest_nor_an_alias_is_deleted_by_qualifier(lam: Any, two: str) -> None:
    """DeleteFunction refuses the Qualifier $LATEST and that of an alias. Source: API reference, DeleteFunction."""
    assert refusal(lam.delete_function, FunctionName=two, Qualifier="$LATEST") == INVALID
    assert refusal(lam.delete_function, FunctionName=two, Qualifier="live") == INVALID


def test_versions_are_listed_in_pages(lam: Any, two: str) -> None:
    """ListVersionsByFunction starts with $LATEST and goes on from the marker. Source: its API reference."""
    first = lam.list_versions_by_function(FunctionName=two, MaxItems=2)
    assert [version["Version"] for version in first["Versions"]] == ["$LATEST", "1"]
    rest = lam.list_versions_by_function(FunctionName=two, Marker=first["NextMarker"])
    assert [version["Version"] for version in rest["Versions"]] == ["2"]
    assert "NextMarker" not in rest
    # States are left out of listings.
    assert not {"State", "LastUpdateStatus"} & set(rest["Versions"][0])


@pytest.mark.skipif("BUDDY_CONTRACT_ROLE" in os.environ, reason="51 versions of a real function take minutes")
def test_a_page_has_50_versions_at_most(account: Account, lam: Any, fn: str) -> None:
    """A page has 50 items at most, whatever MaxItems says. Source: API reference, ListVersionsByFunction."""
    for number in range(51):
        lam.update_function_configuration(FunctionName=fn, Description=str(number))
        account.settle(fn)
        lam.publish_version(FunctionName=fn)
    page = lam.list_versions_by_function(FunctionName=fn, MaxItems=1000)
    assert (len(page["Versions"]), "NextMarker" in page) == (50, True)
    pages = lam.get_paginator("list_versions_by_function").paginate(FunctionName=fn)
    found = [version["Version"] for each in pages for version in each["Versions"]]
    assert found == ["$LATEST", *(str(number) for number in range(1, 52))]


# Updating


def test_a_function_that_is_being_updated_refuses_writes(account: Account, lam: Any, fn: str) -> None:
    """While LastUpdateStatus is InProgress, updating and publishing conflict; afterwards they work.

    Source: AWS Lambda developer guide, function states; aws-cli issue 6585.
    """
    assert lam.update_function_code(FunctionName=fn, ZipFile=B)["LastUpdateStatus"] == "InProgress"
    assert refusal(lam.update_function_configuration, FunctionName=fn, Timeout=5) == CONFLICT
    assert refusal(lam.publish_version, FunctionName=fn) == CONFLICT
    account.settle(fn)
    assert lam.get_function_configuration(FunctionName=fn)["LastUpdateStatus"] == "Successful"
    assert lam.publish_version(FunctionName=fn)["Version"] == "1"


def test_a_version_published_with_an_update_is_pending_first(account: Account, lam: Any, fn: str) -> None:
    """UpdateFunctionCode with Publish gives a version that is Pending, and Active later.

    Source: recorded against AWS, 2025-11.
    """
    version = lam.update_function_code(FunctionName=fn, ZipFile=B, Publish=True)
    assert (version["Version"], version["State"]) == ("1", "Pending")
    account.settle(fn, "1")
    lam.get_waiter("published_version_active").wait(FunctionName=fn, Qualifier="1")
    assert lam.get_function(FunctionName=fn, Qualifier="1")["Configuration"]["State"] == "Active"


def test_a_dry_run_changes_nothing(lam: Any, fn: str) -> None:
    """UpdateFunctionCode with DryRun checks the package and leaves the function alone. Source: its API reference."""
    before = lam.get_function_configuration(FunctionName=fn)
    assert lam.update_function_code(FunctionName=fn, ZipFile=B, DryRun=True)["CodeSha256"] != before["CodeSha256"]
    after = lam.get_function_configuration(FunctionName=fn)
    assert (after["CodeSha256"], after["RevisionId"]) == (before["CodeSha256"], before["RevisionId"])
    assert refusal(lam.update_function_code, FunctionName=fn, ZipFile=b"no zip", DryRun=True) == INVALID


def test_what_is_no_zip_is_refused(lam: Any, fn: str) -> None:
    """Code that cannot be unzipped is refused. Source: recorded against AWS, 2025-11."""
    assert refusal(lam.update_function_code, FunctionName=fn, ZipFile=b"this is not a zipfile") == INVALID
    # An encrypted file, and one whose data is cut: Python has other exceptions for them than BadZipFile.
    entry = B.index(b"PK\x01\x02")
    for broken in (B[: entry + 8] + b"\1" + B[entry + 9 :], B[:60] + B[64:]):
        assert refusal(lam.update_function_code, FunctionName=fn, ZipFile=broken) == INVALID


def test_the_environment_is_replaced_as_a_whole(account: Account, lam: Any, fn: str) -> None:
    """UpdateFunctionConfiguration's Environment replaces every variable; other members stay.

    Source: AWS Lambda developer guide, environment variables.
    """
    lam.update_function_configuration(FunctionName=fn, Environment={"Variables": {"ONE": "1", "TWO": "2"}}, Timeout=7)
    account.settle(fn)
    changed = lam.update_function_configuration(FunctionName=fn, Environment={"Variables": {"THREE": "3"}})
    assert (changed["Environment"]["Variables"], changed["Timeout"]) == ({"THREE": "3"}, 7)


def test_the_environment_has_4_kb_at_most(lam: Any, fn: str) -> None:
    """All variables together have 4 KB at most. Source: AWS Lambda quotas."""
    large = {"Variables": {"LARGE": "x" * 4096}}
    assert refusal(lam.update_function_configuration, FunctionName=fn, Environment=large) == INVALID


# Names and reads


def test_a_function_is_named_in_four_ways(lam: Any, two: str) -> None:
    """FunctionName may be a name, a partial or a full ARN, each with a qualifier, which must not contradict Qualifier.

    Source: AWS Lambda API reference, FunctionName; recorded (the contradiction).
    """
    arn = lam.get_function_configuration(FunctionName=two)["FunctionArn"]
    partial = ":".join(arn.split(":")[4:])
    for named in (f"{two}:1", f"{partial}:1", f"{arn}:1", f"{arn}:live"):
        assert lam.get_function(FunctionName=named)["Configuration"]["Version"] == "1"
    assert refusal(lam.get_function, FunctionName=f"{two}:1", Qualifier="2") == INVALID


def test_reading_by_alias_shows_the_primary_under_the_alias_arn(lam: Any, two: str) -> None:
    """GetFunction of an alias shows its primary version with the alias's ARN. Source: recorded, 2025-11."""
    shown = lam.get_function(FunctionName=two, Qualifier="live")["Configuration"]
    assert (shown["Version"], shown["FunctionArn"].split(":")[-2:]) == ("1", [two, "live"])


def test_unknown_functions_and_qualifiers_are_not_found(lam: Any, fn: str) -> None:
    """Reading an unknown function, version or alias finds nothing. Source: recorded against AWS, 2025-11."""
    assert refusal(lam.get_function, FunctionName=f"{fn}-unknown") == MISSING
    assert refusal(lam.get_function, FunctionName=fn, Qualifier="9") == MISSING
    assert refusal(lam.get_function, FunctionName=fn, Qualifier="absent") == MISSING
    assert refusal(lam.create_alias, FunctionName=f"{fn}-unknown", Name="a", FunctionVersion="1") == MISSING


def test_a_function_is_created_once(account: Account, lam: Any, fn: str) -> None:
    """CreateFunction of an existing name conflicts. Source: AWS Lambda API reference, CreateFunction."""
    assert refusal(lambda **more: create(lam, fn, A, **more), Role=account.role) == CONFLICT


def test_tags_are_added_and_removed(lam: Any, fn: str) -> None:
    """TagResource adds, UntagResource removes, GetFunction and ListTags show. Source: recorded, 2025-11."""
    arn = lam.get_function_configuration(FunctionName=fn)["FunctionArn"]
    lam.tag_resource(Resource=arn, Tags={"team": "buddy"})
    assert lam.list_tags(Resource=arn)["Tags"] == {"purpose": "contract", "team": "buddy"}
    lam.untag_resource(Resource=arn, TagKeys=["team", "absent"])
    assert lam.get_function(FunctionName=fn)["Tags"] == {"purpose": "contract"}


# Concurrency


def test_reserved_concurrency_of_zero_shows(lam: Any, fn: str) -> None:
    """A reservation, zero included, shows in GetFunction and GetFunctionConcurrency until it is deleted.

    Source: AWS Lambda API reference, PutFunctionConcurrency, GetFunction.
    """
    assert "ReservedConcurrentExecutions" not in lam.get_function_concurrency(FunctionName=fn)
    assert "Concurrency" not in lam.get_function(FunctionName=fn)
    lam.put_function_concurrency(FunctionName=fn, ReservedConcurrentExecutions=0)
    assert lam.get_function_concurrency(FunctionName=fn)["ReservedConcurrentExecutions"] == 0
    assert lam.get_function(FunctionName=fn)["Concurrency"] == {"ReservedConcurrentExecutions": 0}
    lam.delete_function_concurrency(FunctionName=fn)
    assert "ReservedConcurrentExecutions" not in lam.get_function_concurrency(FunctionName=fn)


def test_a_hundred_executions_stay_unreserved(lam: Any, fn: str) -> None:
    """A reservation that leaves the account less than 100 unreserved is refused. Source: Lambda developer guide."""
    unreserved = lam.get_account_settings()["AccountLimit"]["UnreservedConcurrentExecutions"]
    given = {"FunctionName": fn, "ReservedConcurrentExecutions": unreserved - 99}
    assert refusal(lam.put_function_concurrency, **given) == INVALID


@pytest.mark.skipif("BUDDY_CONTRACT_ROLE" in os.environ, reason="provisioned concurrency costs money")
def test_provisioned_concurrency_is_not_for_split_aliases(lam: Any, two: str) -> None:
    """Provisioned concurrency is refused on $LATEST and on an alias with weights, and kept on one without.

    Source: AWS Lambda developer guide, provisioned concurrency.
    """
    put, given = lam.put_provisioned_concurrency_config, {"FunctionName": two, "ProvisionedConcurrentExecutions": 1}
    missing = ("ProvisionedConcurrencyConfigNotFoundException", 404)
    assert refusal(put, Qualifier="$LATEST", **given) == INVALID
    lam.update_alias(FunctionName=two, Name="live", RoutingConfig=weights(v2=0.1))
    assert refusal(put, Qualifier="live", **given) == INVALID
    lam.update_alias(FunctionName=two, Name="live", RoutingConfig={})
    assert put(Qualifier="live", **given)["RequestedProvisionedConcurrentExecutions"] == 1
    listed = lam.list_provisioned_concurrency_configs(FunctionName=two)["ProvisionedConcurrencyConfigs"]
    assert [(each["FunctionArn"].split(":")[-1], each["Status"]) for each in listed] == [("live", "IN_PROGRESS")]
    assert refusal(lam.put_function_concurrency, FunctionName=two, ReservedConcurrentExecutions=0) == INVALID
    lam.delete_provisioned_concurrency_config(FunctionName=two, Qualifier="live")
    assert refusal(lam.get_provisioned_concurrency_config, FunctionName=two, Qualifier="live") == missing
