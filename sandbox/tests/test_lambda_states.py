"""Lambda's states, limits and provisioned concurrency: what AWS does by itself, and what it then refuses.

'Recorded' means: seen in responses of real AWS that a public test suite keeps, the latest from 2026-02.
"""

from collections.abc import Iterator

import pytest
from lambda_serving import ROLE, Served, create, package, serve
from serving import refusal

A, B = package("def handler(event, context): return 'a'"), package("def handler(event, context): return 'b'")
KEY = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"


@pytest.fixture
def served() -> Iterator[Served]:
    with serve() as running:
        yield running


@pytest.fixture
def two(served: Served) -> Served:
    """The function fn with versions 1 and 2, and the alias live on 1."""
    served.deploy("fn", A)
    served.deploy("fn", B)
    served.lam.create_alias(FunctionName="fn", Name="live", FunctionVersion="1")
    return served


# Provisioned concurrency


def provision(served: Served) -> None:
    """Give the alias live provisioned concurrency, and wait until it is allocated."""
    served.lam.put_provisioned_concurrency_config(
        FunctionName="fn", Qualifier="live", ProvisionedConcurrentExecutions=1
    )
    served.clock.time += served.service.allocation_s


def test_provisioned_concurrency_takes_time(two: Served) -> None:
    """A new configuration is IN_PROGRESS with nothing allocated, and READY later.

    Source: recorded AWS response, 2025-11-24, test_reserved_provisioned_overlap.
    """
    given = {"FunctionName": "fn", "Qualifier": "live"}
    put = two.lam.put_provisioned_concurrency_config(ProvisionedConcurrentExecutions=2, **given)
    assert (put["Status"], put["AllocatedProvisionedConcurrentExecutions"]) == ("IN_PROGRESS", 0)
    two.clock.time += two.service.allocation_s
    got = two.lam.get_provisioned_concurrency_config(**given)
    assert (got["Status"], got["AvailableProvisionedConcurrentExecutions"]) == ("READY", 2)


def test_moved_alias_keeps_its_traffic_on_the_old_version_until_capacity_is_allocated(two: Served) -> None:
    """Under provisioned concurrency UpdateAlias answers without weights, reads show {old: 1.0} until it is allocated.

    Source: recorded AWS response, 2023-03-21, test_lambda_provisioned_concurrency_moves_with_alias (the reply, and
    IN_PROGRESS); hashicorp/terraform-provider-aws pull request 48116, 2026-05-29 (the weights {"1": 1}).
    """
    provision(two)
    reply = two.lam.update_alias(FunctionName="fn", Name="live", FunctionVersion="2", RoutingConfig={})
    assert (reply["FunctionVersion"], reply.get("RoutingConfig")) == ("2", None)
    read = two.lam.get_alias(FunctionName="fn", Name="live")
    assert (read["FunctionVersion"], read["RoutingConfig"]) == ("2", {"AdditionalVersionWeights": {"1": 1.0}})
    config = two.lam.get_provisioned_concurrency_config(FunctionName="fn", Qualifier="live")
    assert (config["Status"], config["AllocatedProvisionedConcurrentExecutions"]) == ("IN_PROGRESS", 1)
    assert two.lam.invoke(FunctionName="fn", Qualifier="live")["ExecutedVersion"] == "1"
    put, given = two.lam.put_provisioned_concurrency_config, {"FunctionName": "fn", "Qualifier": "live"}
    weighted = ("InvalidParameterValueException", "Alias with weights can not be used with Provisioned Concurrency")
    assert refusal(put, ProvisionedConcurrentExecutions=2, **given) == weighted
    two.clock.time += two.service.allocation_s
    assert "RoutingConfig" not in two.lam.get_alias(FunctionName="fn", Name="live")
    assert two.lam.invoke(FunctionName="fn", Qualifier="live")["ExecutedVersion"] == "2"


def test_alias_that_is_moved_back_meanwhile_serves_the_old_version(two: Served) -> None:
    """A move back before the capacity is allocated needs no weights; an edited Description does not end the wait.

    Source: terraform-provider-aws pull request 48116 (the weights mean where the traffic still is).
    """
    provision(two)
    two.lam.update_alias(FunctionName="fn", Name="live", FunctionVersion="2")
    two.lam.update_alias(FunctionName="fn", Name="live", Description="edited", RoutingConfig={})
    waiting = two.lam.get_alias(FunctionName="fn", Name="live")
    assert waiting["RoutingConfig"] == {"AdditionalVersionWeights": {"1": 1.0}}
    two.lam.update_alias(FunctionName="fn", Name="live", FunctionVersion="1")
    assert "RoutingConfig" not in two.lam.get_alias(FunctionName="fn", Name="live")
    assert two.lam.invoke(FunctionName="fn", Qualifier="live")["ExecutedVersion"] == "1"


def test_provisioned_concurrency_has_one_owner(two: Served) -> None:
    """A version and an alias on it cannot both be provisioned; unknown and unpublished qualifiers are refused.

    Source: recorded AWS responses, 2025-11-25, TestLambdaProvisionedConcurrency.
    """
    put = two.lam.put_provisioned_concurrency_config
    given = {"FunctionName": "fn", "ProvisionedConcurrentExecutions": 1}
    put(Qualifier="1", **given)
    owned = "Alias can't be used for Provisioned Concurrency configuration on an already Provisioned version"
    assert refusal(put, Qualifier="live", **given) == ("ResourceConflictException", owned)
    two.lam.delete_provisioned_concurrency_config(FunctionName="fn", Qualifier="1")
    put(Qualifier="live", **given)
    pointed = ("ResourceConflictException", "Version is pointed by a Provisioned Concurrency alias")
    assert refusal(put, Qualifier="1", **given) == pointed
    get = two.lam.get_provisioned_concurrency_config
    only = "The function resource provided must be an alias or a published version."
    assert refusal(get, FunctionName="fn", Qualifier="$LATEST") == ("InvalidParameterValueException", only)
    assert refusal(get, FunctionName="fn", Qualifier="no")[1].startswith("Cannot find alias arn: ")


def test_provisioned_and_reserved_concurrency_limit_each_other(two: Served) -> None:
    """Provisioned concurrency fits into the reserved one, and into what the account has left.

    Source: recorded AWS responses, 2025-11-24 and 25, test_reserved_provisioned_overlap and
    test_provisioned_concurrency_limits.
    """
    put, given = two.lam.put_provisioned_concurrency_config, {"FunctionName": "fn", "Qualifier": "live"}
    two.service.concurrency = 200
    account = "Specified ConcurrentExecutions for function is greater than account's unreserved concurrency [200]."
    assert refusal(put, ProvisionedConcurrentExecutions=201, **given)[1] == account
    below = "decreases account's UnreservedConcurrentExecution below its minimum value of [100]."
    assert refusal(put, ProvisionedConcurrentExecutions=101, **given)[1].endswith(below)
    two.lam.put_function_concurrency(FunctionName="fn", ReservedConcurrentExecutions=2)
    greater = (
        "Requested Provisioned Concurrency should not be greater than the reservedConcurrentExecution for function"
    )
    assert refusal(put, ProvisionedConcurrentExecutions=3, **given)[1] == greater
    put(ProvisionedConcurrentExecutions=2, **given)
    lower = " ReservedConcurrentExecutions  1 should not be lower than function's total provisioned concurrency [2]."
    reserve = two.lam.put_function_concurrency
    assert refusal(reserve, FunctionName="fn", ReservedConcurrentExecutions=1)[1] == lower


def test_reserved_concurrency_is_for_whole_functions(two: Served) -> None:
    """PutFunctionConcurrency refuses a qualified ARN, and names $LATEST of an unknown function.

    Source: recorded AWS responses, 2025-11-25, test_function_concurrency_exceptions.
    """
    reserve = two.lam.put_function_concurrency
    arn = f"{two.lam.get_function_configuration(FunctionName='fn')['FunctionArn']}:live"
    code, message = refusal(reserve, FunctionName=arn, ReservedConcurrentExecutions=1)
    assert code == "InvalidParameterValueException"
    assert message.startswith("This operation is permitted on Lambda functions only.")
    code, message = refusal(reserve, FunctionName="other", ReservedConcurrentExecutions=1)
    assert (code, message.endswith(":function:other:$LATEST")) == ("ResourceNotFoundException", True)


# States


@pytest.mark.parametrize("state", ["Pending", "Failed"])
def test_function_in_this_state_refuses_changes_and_requests(two: Served, state: str) -> None:
    """A Pending or Failed function can be read; updates, publishing and Invoke conflict.

    Source: AWS Lambda developer guide, function states; the message is that of ResourceConflictException.
    """
    two.service.latest_state = state
    assert two.lam.get_function_configuration(FunctionName="fn")["State"] == state
    busy = "The operation cannot be performed at this time. The function is currently in the following state: "
    conflict = ("ResourceConflictException", busy + state)
    assert refusal(two.lam.update_function_code, FunctionName="fn", ZipFile=A) == conflict
    assert refusal(two.lam.update_function_configuration, FunctionName="fn", Timeout=5) == conflict
    assert refusal(two.lam.publish_version, FunctionName="fn") == conflict
    assert refusal(two.lam.invoke, FunctionName="fn") == conflict
    assert two.lam.invoke(FunctionName="fn", Qualifier="live")["ExecutedVersion"] == "1"


def test_inactive_version_refuses_requests(two: Served) -> None:
    """An idle version is Inactive and refuses an invocation.

    Source: AWS Lambda developer guide, function states.
    """
    two.service.version_state = "Inactive"
    shown = two.lam.get_function_configuration(FunctionName="fn", Qualifier="1")
    assert (shown["State"], shown["StateReasonCode"]) == ("Inactive", "Idle")
    assert refusal(two.lam.invoke, FunctionName="fn", Qualifier="1")[1].endswith("state: Inactive")


def test_update_in_progress_and_failed_update(two: Served) -> None:
    """An update in progress refuses the next one with the function's ARN; after a failed one the next may come.

    Source: recorded AWS response, 2025-11-25, test_lambda_concurrent_code_updates; API reference, LastUpdateStatus.
    """
    two.service.update_status = "InProgress"
    arn = two.lam.get_function_configuration(FunctionName="fn")["FunctionArn"]
    busy = f"The operation cannot be performed at this time. An update is in progress for resource: {arn}"
    conflict = ("ResourceConflictException", busy)
    assert refusal(two.lam.update_function_code, FunctionName="fn", ZipFile=A) == conflict
    two.service.update_status = "Failed"
    assert two.lam.get_function_configuration(FunctionName="fn")["LastUpdateStatus"] == "Failed"
    two.lam.update_function_code(FunctionName="fn", ZipFile=A)


def test_version_published_alone_is_active_at_once(served: Served) -> None:
    """PublishVersion answers with a version that is Active.

    Source: recorded AWS responses, 2025-11-25, test_alias_lifecycle, publish_v1.
    """
    create(served.lam, "fn", A)
    served.settle()
    version = served.lam.publish_version(FunctionName="fn")
    assert (version["State"], version["LastUpdateStatus"]) == ("Active", "Successful")


def test_version_with_a_snapshot_is_pending_until_it_is_taken(served: Served) -> None:
    """With SnapStart a new version is Pending, then its OptimizationStatus is On; $LATEST's stays Off.

    Source: AWS Lambda developer guide, SnapStart; recorded AWS response, 2026-01-12, test_snapstart_lifecycle (fields).
    """
    created = create(served.lam, "fn", A)
    assert created["SnapStart"] == {"ApplyOn": "None", "OptimizationStatus": "Off"}
    served.settle()
    served.lam.update_function_configuration(FunctionName="fn", SnapStart={"ApplyOn": "PublishedVersions"})
    served.settle()
    assert served.lam.publish_version(FunctionName="fn")["State"] == "Pending"
    served.clock.time += served.service.snapshot_s
    shown = {
        name: served.lam.get_function_configuration(FunctionName="fn", Qualifier=name) for name in ("1", "$LATEST")
    }
    assert (shown["1"]["State"], shown["1"]["SnapStart"]["OptimizationStatus"]) == ("Active", "On")
    assert shown["$LATEST"]["SnapStart"] == {"ApplyOn": "PublishedVersions", "OptimizationStatus": "Off"}


def test_configuration_names_the_runtime_version(two: Served) -> None:
    """A configuration has a RuntimeVersionConfig; a row of ListVersionsByFunction has none.

    Source: recorded AWS responses, 2025-11-25, test_publish_version_on_create.
    """
    arn = two.lam.get_function_configuration(FunctionName="fn")["RuntimeVersionConfig"]["RuntimeVersionArn"]
    assert arn.startswith("arn:aws:lambda:us-east-1::runtime:")
    rows = two.lam.list_versions_by_function(FunctionName="fn")["Versions"]
    assert not any("RuntimeVersionConfig" in row for row in rows)


def test_update_of_an_unknown_alias(two: Served) -> None:
    """UpdateAlias says 'Alias not found', GetAlias 'Cannot find alias arn'.

    Source: recorded AWS responses, 2025-11-25, test_non_existent_alias_update and test_notfound_and_invalid_routingconfigs.
    """
    given = {"FunctionName": "fn", "Name": "other"}
    code, message = refusal(two.lam.update_alias, **given)
    assert (code, message.split(":")[0]) == ("ResourceNotFoundException", "Alias not found")
    assert refusal(two.lam.get_alias, **given)[1].startswith("Cannot find alias arn: ")


# Limits


def test_package_sent_with_the_call_is_limited(two: Served) -> None:
    """A package over the limit is refused with 413 and the size of the request in base64.

    Source: AWS Lambda developer guide, quotas (50 MB); the message as public reports quote it.
    """
    create(two.lam, "other", A)
    two.settle()
    two.service.zip_limit = 100
    code, message = refusal(two.lam.update_function_code, FunctionName="other", ZipFile=A)
    assert code == "RequestEntityTooLargeException"
    assert message == "Request must be smaller than 134 bytes for the UpdateFunctionCode operation"


def test_unpacked_package_is_limited(two: Served) -> None:
    """A package that is too large once unpacked is refused.

    Source: AWS Lambda developer guide, quotas (250 MB); internetarchive/internet-archive-voice-apps issue 476.
    """
    two.service.unzipped_limit = 10
    large = ("InvalidParameterValueException", "Unzipped size must be smaller than 10 bytes")
    assert refusal(two.lam.update_function_code, FunctionName="fn", ZipFile=B) == large


def test_code_storage_is_limited(two: Served) -> None:
    """Neither an upload nor a new version fits into full code storage; GetAccountSettings shows the limit.

    Source: AWS Lambda developer guide, quotas (75 GB); serverless-nextjs/serverless-next.js issue 1801.
    """
    two.lam.update_function_code(FunctionName="fn", ZipFile=A)
    two.settle()
    two.service.storage_limit = 3 * len(A) + 10
    full = ("CodeStorageExceededException", "Code storage limit exceeded.")
    assert refusal(two.lam.update_function_code, FunctionName="fn", ZipFile=B) == full
    assert refusal(two.lam.publish_version, FunctionName="fn") == full
    assert two.lam.get_account_settings()["AccountLimit"]["TotalCodeSize"] == 3 * len(A) + 10


# Encrypted environments


def test_environment_whose_key_is_denied_shows_an_error(served: Served) -> None:
    """Without access to the key, reads show Environment.Error instead of variables, and UpdateAlias works.

    Source: AWS Lambda API reference, EnvironmentResponse and EnvironmentError.
    """
    served.deploy("fn", A, KMSKeyArn=KEY, Environment={"Variables": {"TABLE": "reminders"}})
    served.deploy("plain", A, Environment={"Variables": {"TABLE": "reminders"}})
    served.lam.create_alias(FunctionName="fn", Name="live", FunctionVersion="1")
    served.service.kms_denied = True
    environment = served.lam.get_function_configuration(FunctionName="fn", Qualifier="1")["Environment"]
    assert environment["Error"]["ErrorCode"] == "AccessDeniedException"
    assert "Variables" not in environment
    plain = served.lam.get_function_configuration(FunctionName="plain")["Environment"]
    assert plain == {"Variables": {"TABLE": "reminders"}}
    served.lam.update_alias(FunctionName="fn", Name="live", Description="still writable")


# Logging


def test_logging_configuration_is_merged(served: Served) -> None:
    """JSON brings levels, a partial update keeps the log group, and Text drops the levels.

    Source: recorded AWS responses, 2025-11-25, TestLoggingConfig.
    """
    create(served.lam, "fn", A, LoggingConfig={"LogGroup": "cool_lambda"})
    served.settle()
    update = served.lam.update_function_configuration
    json_config = update(FunctionName="fn", LoggingConfig={"LogFormat": "JSON"})["LoggingConfig"]
    levels = {"ApplicationLogLevel": "INFO", "SystemLogLevel": "INFO"}
    assert json_config == {"LogFormat": "JSON", "LogGroup": "cool_lambda", **levels}
    served.settle()
    text = update(FunctionName="fn", LoggingConfig={"LogFormat": "Text"})["LoggingConfig"]
    assert text == {"LogFormat": "Text", "LogGroup": "cool_lambda"}


def test_alias_is_not_split_across_roles(served: Served) -> None:
    """Two versions with different execution roles, or dead-letter queues, cannot share an alias.

    Source: AWS Lambda developer guide, weighted aliases; the message as serverless-aws-alias issue 64 quotes it.
    """
    served.deploy("fn", A)
    served.lam.update_function_configuration(FunctionName="fn", Role=f"{ROLE}-other")
    served.settle()
    served.deploy("fn", B)
    served.lam.create_alias(FunctionName="fn", Name="live", FunctionVersion="1")
    split = {"AdditionalVersionWeights": {"2": 0.1}}
    role = "Specified versions must be associated with the same execution role"
    assert refusal(served.lam.update_alias, FunctionName="fn", Name="live", RoutingConfig=split)[1] == role
