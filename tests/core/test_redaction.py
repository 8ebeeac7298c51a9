"""Redaction: known values in every form, what looks like a secret, and nothing that does not."""

import base64
import html
import json
import os
import random
import signal
import subprocess
import sys
import urllib.parse
import zlib
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
    ("text", "cleaned"),
    [
        ("_gitlab_session=" + "9c" * 16, f"_gitlab_session={MARK}"),
        ("with dt0c01." + "a1" * 12 + "." + "b2" * 32 + " now", f"with {MARK} now"),
        ("fb 184387161380233|" + "ick86yuqq83__7e-6-t1p-r-fgk", f"fb 184387161380233|{MARK}"),
        ("$ curl -s -u ada:s3cr3t/pw https://x.example", f"$ curl -s -u ada:{MARK} https://x.example"),
        ("curl --user='ada:s3cr3t pw'", f"curl --user='ada:{MARK} pw'"),
        ('<add key="ClearTextPassword" value="sw0rdfish!" />', f'<add key="ClearTextPassword" value="{MARK}" />'),
        ('<add key="Feed:ApiKey" value="9f3a77b1c2d3e4" />', f'<add key="Feed:ApiKey" value="{MARK}" />'),
        ("Authorization: token 9f3a77b1c2d3e4f5", f"Authorization: token {MARK}"),
        ("ALGOLIA_ADMIN = " + "9f3a77b1" * 4, f"ALGOLIA_ADMIN = {MARK}"),
        ('{"new-relic": "' + "x1" * 20 + '"}', f'{{"new-relic": "{MARK}"}}'),
        ("heroku: 945e07a3-2f04-ce36-2d71-34c7870e298c", f"heroku: {MARK}"),
    ],
)
def test_forms_that_another_rule_set_has(text: str, cleaned: str) -> None:
    """Written by gitleaks' rules, which ours were not written from; see benchmarks/README.md."""
    assert Redactor().redact(text) == cleaned


@pytest.mark.parametrize(
    "text",
    [
        "curl -s https://buddy.example:8443/health?since=10:00 -o out",
        "| 123456789012345 | 27 requests | buddy-reminders-prod-of-eu-west-1 |",
        '<add key="TokenTtl" value="3600" /> <option key="Password hint" value="none">',
        "sentry_event_id=" + "9f3a77b1" * 4,
        "datadog: 4711 requests, codecov commit: " + "9f3a77b1" * 5,
        "GET /twitter/users: 945e07a3-2f04-ce36-2d71-34c7870e298c",
        "sha256: " + "9f3a77b1" * 8 + ", artifact=" + "0a" * 32 + ", key: builds/good/2026-11-22.zip",
    ],
)
def test_texts_beside_these_forms_stay(text: str) -> None:
    """Figures, identifiers and hashes, with the same words around them."""
    assert Redactor().redact(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "v2 fails 0.51 % of 1,204 requests (6 failures), v1 0.50 % of 10,871 (54) in the same minutes",
        "arn:aws:sts::123456789012:user/moto",
        "approved_plan=pec13eabb3503",
        "approved_plan=pec13eabb35031cd2f0a97b64",
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


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("TOKEN_TTL", "3600", "13600 requests, TOKEN_TTL=3600, 3600 s"),
        ("TOKEN_TTL_S", "86400000", "86400000 ms are a day: '86400000'"),
        ("PWD", "/home/ada/buddy-skill", "/home/ada/buddy-skill/runs/2026-11-22T0312Z-canary-prod-7f3a"),
        ("SECRET_PATH", "/run/secrets/buddy", "read /run/secrets/buddy"),
        ("AUTH_TYPE", "oauth2", "oauth2 is used"),
        ("TOKEN_URL", "https://login.example.com/oauth2/token", "POST https://login.example.com/oauth2/token"),
        ("API_KEY_NAME", "production", "in production 12 of 4,711 requests failed"),
        ("PASSWORD", "swordfish", "a swordfish is a fish"),
        ("PIN_SECRET", "482913", "1,482,913 requests, 482913 ms, 4829130"),
    ],
)
def test_figures_words_and_paths_stay(name: str, value: str, text: str) -> None:
    """Though they are values of names with 'token', 'secret' or 'pwd' in them."""
    redactor = Redactor()
    redactor.add_secrets_of({name: value})
    redactor.add_secrets_of({name: value}, strict=False)
    assert redactor.redact(text) == text


@pytest.mark.parametrize(
    ("name", "value", "text", "cleaned"),
    [
        ("DB_PASSWORD", "swordfish", "{'DB_PASSWORD': 'swordfish'}", f"{{'DB_PASSWORD': '{MARK}'}}"),
        ("DB_PASSWORD", "swordfish", "DB_PASSWORD=swordfish", f"DB_PASSWORD={MARK}"),
        ("DB_PASSWORD", "swordfish", "\nswordfish\n", f"\n{MARK}\n"),
        ("PIN_SECRET", "482913", "PIN_SECRET: 482913, 1482913", f"PIN_SECRET: {MARK}, 1482913"),
        ("SHORT_TOKEN", "k4tz3", "with k4tz3, not k4tz35", f"with {MARK}, not k4tz35"),
    ],
)
def test_a_short_or_plain_value_is_cut_where_it_stands_alone(name: str, value: str, text: str, cleaned: str) -> None:
    """In quotes, behind its name, or on a line of its own."""
    redactor = Redactor()
    redactor.add_secrets_of({name: value}, strict=False)
    assert redactor.redact(text) == cleaned


def test_among_any_escapes_the_secret_alone_is_cut() -> None:
    """Escapes, entities, markup and colours in any order before and behind it: each stays as it was written."""
    rng = random.Random(3)
    redactor = Redactor()
    redactor.add_secret("hunter2hunter2")
    redactor.add_secret("plum&tree<3>")
    signs = [
        "&amp;",
        "&lt;",
        "&amp;amp;",
        "&#x26;",
        "\\\\",
        "\\\\\\n",
        '\\"',
        "\\x5cn",
        "\\u005c",
        "\\u00e4",
        "%25",
        "%2541",
        "%C3%A4",
        "5 %",
    ]
    signs += [
        "<b>",
        "</td><td>",
        "<!-- x -->",
        "<3",
        "\x1b[31m",
        "\x1b[0m",
        "\u200b",
        "\0a\0b\0c\0d",
        "QUJDREVGR0hJSktMTU5P",
        "\n",
    ]
    for _ in range(400):
        words = [rng.choice([*signs, "v2", "0.51 %", "table"]) for _ in range(rng.randrange(2, 40))]
        words.insert(rng.randrange(len(words)), rng.choice(["hunter2hunter2", "plum&tree<3>"]))
        text = " ".join(words)
        assert redactor.redact(text) == text.replace("hunter2hunter2", MARK).replace("plum&tree<3>", MARK)


def test_nothing_in_our_own_texts_is_cut() -> None:
    """Runbooks, documents and sources have figures, paths and hashes, and no secret."""
    redactor = Redactor()
    root = Path(__file__).parents[2]
    places = ("buddy_ops", "docs", "notebooks", "sandbox/src", "parameters")
    paths = [path for place in places for path in (root / place).rglob("*") if path.suffix in {".py", ".md", ".ipynb"}]
    texts = {path: path.read_bytes().decode("utf-8", "ignore") for path in paths}
    assert len(texts) > 100
    assert [path for path, text in texts.items() if redactor.redact(text) != text] == []


def test_a_pictures_text_is_taken_out_and_the_picture_stays() -> None:
    """Compressed or not; a picture without a secret stays as it is, character for character."""
    redactor = Redactor()
    redactor.add_secret("hunter2hunter2")

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", bytes(13)) + chunk(b"tEXt", b"Software\0Matplotlib")
    end = chunk(b"IDAT", bytes(range(200))) + chunk(b"IEND", b"")
    packed = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"by hunter2hunter2"))
    plain = base64.b64encode(head + end).decode()
    for text in (packed, chunk(b"tEXt", b"Comment\0hunter2hunter2"), chunk(b"iTXt", b"C\0\0\0\0\0ghp_" + b"a1" * 18)):
        dirty = base64.b64encode(head + text + end).decode()
        assert redactor.redact({"image/png": dirty}) == {"image/png": plain}
    assert redactor.redact({"image/png": plain}) == {"image/png": plain}


def test_the_lines_of_a_notebook_are_one_text() -> None:
    """A key of several lines, as a saved notebook has it: a list of lines. The list keeps its length."""
    key = ["-----BEGIN RSA PRIVATE KEY-----\n", "MIIEvQIBADANBgkqhkiG9w0BAQEF\n", "-----END RSA PRIVATE KEY-----\n"]
    cleaned = Redactor().redact(["before\n", *key, "done"])
    assert len(cleaned) == 5 and "MIIE" not in "".join(cleaned) and cleaned[0] == "before\n" and "done" in cleaned[-1]


def test_a_kill_leaves_no_secret_in_the_private_file(tmp_path: Path) -> None:
    """SIGKILL runs no clean-up. What is left cannot be read without the key, which was in memory only."""
    program = (
        "import os, signal, sys\nfrom buddy_ops.core.redaction import Redactor, new_file\n"
        "redactor = Redactor(file=new_file(sys.argv[1]))\nredactor.add_secret('hunter2hunter2')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, "SOME_TOKEN": "env-t0ken-aa11", "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program, tmp_path], env=environment, timeout=60, check=False)
    left = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert done.returncode == -signal.SIGKILL and list(left) == ["secrets"] and len(left["secrets"]) > 50
    for secret in (b"hunter2hunter2", b"env-t0ken-aa11"):
        assert secret not in left["secrets"] and base64.b64encode(secret)[:-4] not in left["secrets"]


def test_a_text_that_grew_is_searched_where_it_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """The output of a cell is saved each second: what was searched before is not searched again."""
    redactor = Redactor()
    searched: list[int] = []
    monkeypatch.setattr(redactor, "_search", lambda text, *_: searched.append(len(text)) or iter(()))
    text = "".join(f"line {number}: 0.5 % of 1,204 requests failed\n" for number in range(40_000))
    for length in range(0, len(text), 50_000):
        redactor.redact(text[:length])
    assert sum(searched) < 8 * len(text)
