"""Redaction: known values in every form, what looks like a secret, and nothing that does not."""

import base64
import html
import json
import urllib.parse
from pathlib import Path

import pytest

from buddy_ops.core.redaction import MARK, Redactor, new_file

SECRET = 'S3cr&t "pass\\word" <1/2+3>'
LIKE_SECRETS = (
    "AKIA" + "IOSFODNN7EXAMPLE",
    "https://hooks.slack.com/services/T0/B0/abcdefgh",
    "https://outlook.webhook.office.com/webhookb2/aaaa",
    "xoxb-" + "1234567890-abcdefghij",
    "ghp_" + "a1" * 18,
    "sk_live_" + "a1" * 12,
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
)


@pytest.mark.parametrize(
    "form",
    [
        str,
        repr,
        json.dumps,
        html.escape,
        urllib.parse.quote,
        urllib.parse.quote_plus,
        lambda value: base64.b64encode(value.encode()).decode(),
        lambda value: base64.b64encode(b"user:" + value.encode() + b"!").decode(),
        lambda value: f"\x1b[31m{value}\x1b[0m",
    ],
    ids=["plain", "repr", "json", "html", "url", "form", "base64", "base64 amid", "coloured"],
)
def test_a_known_value_is_cut_in_every_form(form: object) -> None:
    """As it is, and as Python, JSON, HTML, addresses and base64 write it."""
    redactor = Redactor()
    redactor.add_secret(SECRET)
    text = f"before {form(SECRET)} after"  # type: ignore[operator]
    cleaned = redactor.redact(text)
    assert MARK in cleaned and cleaned.startswith("before ") and cleaned.endswith(" after")
    assert "S3cr" not in cleaned and base64.b64encode(SECRET.encode()).decode()[4:20] not in cleaned


@pytest.mark.parametrize("secret", LIKE_SECRETS)
def test_what_looks_like_a_secret_is_cut(secret: str) -> None:
    """Keys, tokens and webhooks that nobody told of."""
    assert secret not in Redactor().redact(f"failed with {secret} today")


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("Authorization: Bearer abcdefgh12345678", f"Authorization: Bearer {MARK}"),
        ("postgres://buddy:hunter2@db/x", f"postgres://buddy:{MARK}@db/x"),
        ("api_key='abcd1234efgh'", f"api_key='{MARK}'"),
        ("url?X-Amz-Signature=0123456789abcdef&x=1", f"url?X-Amz-Signature={MARK}&x=1"),
    ],
)
def test_only_the_secret_of_a_pair_is_cut(text: str, cleaned: str) -> None:
    """What it was for stays readable."""
    assert Redactor().redact(text) == cleaned


@pytest.mark.parametrize(
    "text",
    [
        "v2 fails 0.51 % of 1,204 requests (6 failures), v1 0.50 % of 10,871 (54) in the same minutes",
        "arn:aws:sts::123456789012:user/moto",
        "approved_plan=pec13eabb3503",
        "fcfa47c7edfbb8755443b6d31dea983fca836ab0dd9a2ae9f62573ec3fbd6f9f",
        "slack_webhook: ssm:/buddy/prod/webhook, token: env:STATUS_TOKEN",
        "Basic authentication is off, and the token is missing.",
        "https://buddy.example/runs/2026-11-22T0312Z-canary-prod-7f3a/report.html",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    """Figures, ARNs, hashes, and the places of secrets are what an archive is for."""
    assert Redactor().redact(text) == text


def test_a_functions_environment_is_learned_with_sense() -> None:
    """Values that may be secrets are; flags, words, numbers and the names in the settings are not."""
    redactor = Redactor()
    redactor.never_redact({"function": "buddy-7", "alarms": {"tables": ["buddy-reminders-7"]}})
    redactor.add_secrets_of(
        {
            "ENABLE_NEW_MEDICATION_FLOW": "true",
            "LOG_LEVEL": "INFO",
            "STAGE": "production",
            "TABLE": "buddy-reminders-7",
            "SINCE": "2026-11-22",
            "DATABASE": "x7-Kq.9zzP",
            "API_TOKEN": "k4tz3",
        },
        strict=False,
    )
    text = "true INFO production buddy-reminders-7 2026-11-22 x7-Kq.9zzP k4tz3"
    assert redactor.redact(text) == f"true INFO production buddy-reminders-7 2026-11-22 {MARK} {MARK}"


def test_everything_made_of_texts_is_cleaned() -> None:
    """Keys and values of mappings, lists, and the text chunks of a picture; other values stay as they are."""
    redactor = Redactor(patterns=[r"patient-\d+", r"case (?P<number>\d+)"])
    redactor.add_secret("hunter2hunter2")
    picture = base64.b64encode(b"\x89PNG tEXt hunter2hunter2").decode()
    plain = base64.b64encode(b"\x89PNG" + bytes(range(200))).decode()
    value = {"hunter2hunter2": [1, None, ("patient-12", "case 34")], "image/png": picture, "password": "abc12345"}
    assert redactor.redact(value) == {
        MARK: [1, None, (MARK, f"case {MARK}")],
        "image/png": "",
        "password": MARK,
    }
    assert redactor.redact({"image/png": plain}) == {"image/png": plain}


def test_what_one_process_learns_the_others_cut(tmp_path: Path) -> None:
    """Through the private file, which nobody else may read; what was learned before it was shared too."""
    file = tmp_path / "secrets"
    shared = new_file(str(tmp_path))
    kernel, engine = Redactor(), Redactor(file=shared)
    kernel.add_secret("first-value-1")
    kernel.share_with_kernel(shared)
    kernel.add_secret("second\nvalue-2")
    assert engine.reload_shared() and not engine.reload_shared()
    assert engine.redact("first-value-1 second\nvalue-2") == f"{MARK} {MARK}"
    assert file.stat().st_mode & 0o077 == 0
