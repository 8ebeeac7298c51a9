"""Buddy, the Alexa skill: medication reminders and safety escalation. Standard library only (boto3 if it stores).

Environment: SKILL_ID (requests of another skill are refused), ENABLE_NEW_MEDICATION_FLOW and ENABLE_ENHANCED_SAFETY
(true or false), REMINDERS_TABLE (partition key user_id, sort key reminder_id; without it nothing is stored).
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import faults  # type: ignore[import-not-found]  # its neighbour inside the zip

APOLOGY = "Sorry, I had trouble doing what you asked. Please try again."
METRICS = ("Apologies", "SafetyEscalations", "RemindersSet")
_BUILD = Path(__file__).with_name("build.json")
_RANGE = Path(__file__).with_name("schema_range")
_ENDS = (_RANGE.read_text("utf-8") if _RANGE.exists() else "1").split("-")
LOW, HIGH = int(_ENDS[0]), int(_ENDS[-1])
"""The schema versions of a reminder that this build reads and writes."""

USER_AGENT = f"buddy/{json.loads(_BUILD.read_text('utf-8'))['label'] if _BUILD.exists() else 'dev'}"


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one Alexa request. Counts what happened in one EMF line, an apology included; other faults escape."""
    verify_skill(event)
    counts = dict.fromkeys(METRICS, 0)
    mine = faults.fate(context.aws_request_id)
    try:
        faults.suffer(mine)
        response = answer(event, counts, mine)
    except faults.InjectedApology:
        # What ask-sdk's catch-all does: the person hears "sorry", and Lambda's own Errors stays at 0.
        print(f"[WARNING] {context.aws_request_id} apologised after InjectedApology")
        counts["Apologies"] = 1
        response = say(APOLOGY, "Please try again.")
    print(json.dumps(metrics_line(context, counts)))
    return {"version": "1.0", "sessionAttributes": {}, "userAgent": USER_AGENT, "response": response}


def verify_skill(event: dict[str, Any]) -> None:
    """Refuse a request that was meant for another skill."""
    wanted = os.environ.get("SKILL_ID")
    system = event.get("context", {}).get("System", {})
    application = system.get("application") or event.get("session", {}).get("application") or {}
    if wanted and application.get("applicationId") != wanted:
        raise ValueError("Skill ID Verification failed!!")


def answer(event: dict[str, Any], counts: dict[str, int], mine: faults.Fate) -> dict[str, Any]:
    """The ``response`` of one request; adds to ``counts``."""
    request = event["request"]
    match request["type"], request.get("intent", {}).get("name", ""):
        case "SessionEndedRequest", _:
            return {}
        case "LaunchRequest", _:
            spoken = say("Welcome to Buddy. I can set a medication reminder for you.", "What shall I remind you of?")
        case "IntentRequest", "SetReminderIntent":
            counts["RemindersSet"] = 1
            spoken = set_reminder(event, mine)
        case "IntentRequest", "MedicationTakenIntent":
            spoken = note_taken(event, mine)
        case "IntentRequest", "ReadRemindersIntent":
            spoken = read_reminders(user_id(event))
        case "IntentRequest", "SafetyEscalationIntent":
            counts["SafetyEscalations"] = 1
            calm = " Stay where you are, I am with you." if enabled("ENABLE_ENHANCED_SAFETY") else ""
            spoken = say("I am letting your emergency contact know now." + calm)
        case "IntentRequest", "AMAZON.StopIntent" | "AMAZON.CancelIntent":
            spoken = say("Goodbye.")
        case "IntentRequest", _:
            spoken = say("You can say: remind me to take my tablets at eight.", "What shall I remind you of?")
        case other, _:
            raise ValueError(f"unknown request type {other}")
    return spoken


def set_reminder(event: dict[str, Any], mine: faults.Fate) -> dict[str, Any]:
    """Store a reminder (if there is a table) and say so, in the wording that the feature flag asks for."""
    medication, at = slot(event, "medication") or "your medication", slot(event, "time")
    item = {"user_id": user_id(event), "reminder_id": event["request"]["requestId"], "medication": medication, "at": at}
    write(item, mine)
    when = f" at {at}" if at else ""
    if enabled("ENABLE_NEW_MEDICATION_FLOW"):
        return say(f"Done. {medication}{when}, every day. Shall I also remind your carer?", "Shall I?")
    return say(f"I will remind you to take {medication}{when}.")


def note_taken(event: dict[str, Any], mine: faults.Fate) -> dict[str, Any]:
    """Note on the person's reminders of a medication that it was taken, and say so."""
    medication = slot(event, "medication") or "your medication"
    for item in reminders(user_id(event)):
        if item["medication"] == medication:
            write({**item, "taken_at": int(time.time())}, mine)
    return say(f"Well done. I noted that you took {medication}.")


def read_reminders(user: str) -> dict[str, Any]:
    """Read the person's reminders out."""
    found = reminders(user)
    spoken = ", ".join(f"{item['medication']} at {item['at']}" if item["at"] else item["medication"] for item in found)
    return say(f"You have {len(found)} reminders: {spoken}." if found else "You have no reminders.")


def reminders(user: str) -> list[dict[str, Any]]:
    """A person's reminders; none where there is no table."""
    store = table()
    if store is None:
        return []
    asked = {"KeyConditionExpression": "user_id = :user", "ExpressionAttributeValues": {":user": user}}
    return [{**item, "at": time_of(item)} for item in store.query(**asked, ConsistentRead=True)["Items"]]


def time_of(item: dict[str, Any]) -> str:
    """A reminder's time, '08:00', from whichever shape this build knows and the item has."""
    if HIGH < 2 or "at_minutes" not in item:
        return str(item["at"])
    minutes = item["at_minutes"]
    return "" if minutes is None else f"{int(minutes) // 60:02d}:{int(minutes) % 60:02d}"


def shapes_of(at: str) -> dict[str, Any]:
    """A reminder's time in every shape that this build knows: text in schema 1, minutes after midnight from 2 on."""
    shapes: dict[str, Any] = {"at": at} if LOW < 2 else {}
    if HIGH > 1:
        hours, _, minutes = at.partition(":")
        shapes["at_minutes"] = 60 * int(hours) + int(minutes) if at else None
    return shapes


def write(item: dict[str, Any], mine: faults.Fate) -> None:
    """Store a reminder, if there is a table; it says which version wrote it, and when."""
    if mine.corrupts:
        # Damage as it happens: the item is there, but says another medicine's name and no time.
        item |= {"medication": item["medication"][::-1], "at": ""}
    stamp = {"written_at": int(time.time()), "written_by": os.environ.get("AWS_LAMBDA_FUNCTION_VERSION", "")}
    rest = {name: value for name, value in item.items() if name not in ("at", "at_minutes")}
    if store := table():
        store.put_item(Item={"schema_version": LOW, **rest, **shapes_of(item["at"]), **stamp})


def table() -> Any:
    """The reminders' table, or None where there is none or no boto3."""
    name = os.environ.get("REMINDERS_TABLE")
    if not name:
        return None
    try:
        import boto3
    except ImportError:
        return None
    return boto3.resource("dynamodb").Table(name)


def say(text: str, reprompt: str | None = None) -> dict[str, Any]:
    """An Alexa response that speaks; with a reprompt the session stays open."""
    response: dict[str, Any] = {"outputSpeech": {"type": "SSML", "ssml": f"<speak>{text}</speak>"}}
    if reprompt:
        response["reprompt"] = {"outputSpeech": {"type": "SSML", "ssml": f"<speak>{reprompt}</speak>"}}
    return {**response, "shouldEndSession": reprompt is None}


def metrics_line(context: Any, counts: dict[str, int]) -> dict[str, Any]:
    """One embedded-metric-format record: per alias or version invoked, and per version that really ran."""
    return {
        "_aws": {
            "Timestamp": int(time.time() * 1000),
            "CloudWatchMetrics": [
                {
                    "Namespace": "Buddy",
                    "Dimensions": [["FunctionName", "Resource"], ["FunctionName", "Resource", "ExecutedVersion"]],
                    "Metrics": [{"Name": name, "Unit": "Count"} for name in METRICS],
                }
            ],
        },
        "FunctionName": context.function_name,
        "Resource": context.invoked_function_arn.split(":function:")[1],
        "ExecutedVersion": context.function_version,
        **counts,
    }


def enabled(flag: str) -> bool:
    """Whether a feature flag is on."""
    return os.environ.get(flag, "").lower() in ("1", "true", "on")


def slot(event: dict[str, Any], name: str) -> str:
    """What was said in a slot of the intent, or ''."""
    return str((event["request"]["intent"].get("slots", {}).get(name) or {}).get("value") or "")


def user_id(event: dict[str, Any]) -> str:
    """Who speaks."""
    user = event.get("session", {}).get("user") or event.get("context", {}).get("System", {}).get("user") or {}
    return str(user.get("userId", "unknown"))
