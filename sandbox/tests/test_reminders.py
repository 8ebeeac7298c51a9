"""Buddy's table in a situation: what stands in it, and what a corrupting build really does to it."""

import json
from collections.abc import Callable
from typing import Any

from buddy_sandbox import builds, reminders
from buddy_sandbox.faults import FaultProfile
from buddy_sandbox.situations import Situation

Bring = Callable[..., Situation]
QUIET = {"requests_per_minute": 0, "history_minutes": 10}
ANN = "amzn1.ask.account.ann"


def items(here: Situation) -> list[dict[str, Any]]:
    pages = here.client("dynamodb").get_paginator("scan").paginate(TableName=reminders.table_of(here.environment))
    return [each for page in pages for each in page["Items"]]


def say(here: Situation, intent: str, **slots: str) -> str:
    """What Buddy answers to one request of Ann's."""
    said = {name: {"name": name, "value": value} for name, value in slots.items()}
    event = {
        "version": "1.0",
        "session": {"user": {"userId": ANN}},
        "request": {"type": "IntentRequest", "requestId": "r-1", "intent": {"name": intent, "slots": said}},
    }
    reply = here.client("lambda").invoke(FunctionName=here.function, Qualifier="live", Payload=json.dumps(event))
    return str(json.load(reply["Payload"])["response"]["outputSpeech"]["ssml"])


def test_a_situation_has_buddys_table(situation: Bring) -> None:
    """Recoverable, protected, named in the function's environment, and its items are the skill's own."""
    here = situation("good", reminders=100, **QUIET)
    assert len(items(here)) == 100
    name = reminders.table_of("sandbox")
    dynamodb = here.client("dynamodb")
    assert dynamodb.describe_table(TableName=name)["Table"]["DeletionProtectionEnabled"] is True
    backups = dynamodb.describe_continuous_backups(TableName=name)["ContinuousBackupsDescription"]
    assert backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"] == "ENABLED"
    configuration = here.client("lambda").get_function_configuration(FunctionName=here.function, Qualifier="live")
    assert configuration["Environment"]["Variables"] == {"REMINDERS_TABLE": name}
    say(here, "SetReminderIntent", medication="aspirin", time="08:00")
    (written,) = (each for each in items(here) if each["user_id"]["S"] == ANN)
    assert set(written) == set(reminders.reminder(0, 0))
    assert written["written_by"] == {"S": "1"} and written["schema_version"] == {"N": "1"}
    assert "aspirin at 08:00" in say(here, "ReadRemindersIntent")


def test_a_corrupting_build_damages_what_it_writes(situation: Bring) -> None:
    """Its answers are as good as ever; the reminder it touched says another medicine and no time."""
    here = situation("good", reminders=3, **QUIET)
    say(here, "SetReminderIntent", medication="aspirin", time="08:00")
    code = builds.build(FaultProfile("always", corrupt_rate=1.0), version_label="2.0.0")
    lam = here.client("lambda")
    lam.update_function_code(FunctionName=here.function, ZipFile=code)
    here.ask("advance", seconds=60)
    lam.publish_version(FunctionName=here.function)
    here.ask("advance", seconds=60)
    lam.update_alias(FunctionName=here.function, Name="live", FunctionVersion="2")
    assert "you took aspirin" in say(here, "MedicationTakenIntent", medication="aspirin")
    (found,) = (each for each in items(here) if each["user_id"]["S"] == ANN)
    assert (found["medication"]["S"], found["at"]["S"], found["written_by"]["S"]) == ("niripsa", "", "2")
    assert "taken_at" in found and len(items(here)) == 4


def test_the_corruption_can_be_practised(situation: Bring) -> None:
    """Version 2 is live with a record of its rollout, some of the reminders that it wrote are damaged, no other is."""
    here = situation("corruption", reminders=500, corrupted_minutes=10, **QUIET)
    alias = here.alias()
    assert alias["FunctionVersion"] == "2" and json.loads(alias["Description"])["from"] == "1"
    broken = [each for each in items(here) if each["at"]["S"] == ""]
    assert 0 < len(broken) < 100 and {each["written_by"]["S"] for each in broken} == {"2"}
    assert {each["written_by"]["S"] for each in items(here)} == {"1", "2"}
