"""Thirty secrets, planted wherever one could leak from: none is found in any byte of the archive, or in what is told.

And values that are code somewhere (HTML, Markdown, JavaScript, a shell) do no harm anywhere.
"""

import base64
import html
import json
import os
import re
import subprocess
import sys
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from buddy_ops.core.redaction import MARK
from buddy_ops.runs import verification
from tests.conftest import Situation
from tests.core.test_redaction_matrix import middle
from tests.core.tokens import ENCODINGS, tokens
from tests.runs.test_archive import alone
from tests.system.runbooks.test_deaths import tiny

Bring = Callable[..., Situation]
BIN = Path(sys.executable).parent

IN_THE_FUNCTION = {
    "DB_PASSWORD": "tr0ub4dor&3<x>",
    "STRIPE_KEY": "'quoted\"back\\slash9'",
    "INNOCENT_NAME": "q7-Zk.82mmVw",
    "MULTILINE": "first-line-9f3a\nsecond-line-77b1",
    "SHORT_TOKEN": "k4tz3",
    "UMLAUT_SECRET": "geheimnis-äöü-4711",
    "ONLY_IN_LOGS": "zx81-spectrum-48",
}
IN_SSM = {"/buddy/webhook": "https://hooks.example.com/T000/B000/XXXXwebhookXXXX", "/buddy/status": "st4tus-p4ge-t0ken"}
IN_THE_ENVIRONMENT = {
    "SOME_TOKEN": "env-t0ken-aa11",
    "SLACK_WEBHOOK_URL": "https://chat.example.com/hook/abc123",
    "AWS_SESSION_TOKEN": "FwoGZXIvYXdzEBYaDLongSessionToken1234",
    "MY_API_KEY": "0f1e2d3c4b5a",
}
LOOKING_LIKE_ONE = (
    "AKIA" + "ABCDEFGHIJKLMNOP",
    "ASIA" + "QRSTUVWXYZ234567",
    "https://hooks.slack.com/services/T1/B1/zzzzzzzz",
    "https://contoso.webhook.office.com/webhookb2/1f2e",
    "xoxp-" + "998877665544-aabbcc",
    "ghp_" + "Zz9" * 12,
    "github_pat_" + "Yy8" * 10,
    "sk_live_" + "Xx7" * 8,
    "AIza" + "SyA" + "b1" * 16,
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI0MiJ9.QUJDREVGRw",
    "MIIEvQIBADANBgkqhkiG9w0BAQEF",
    "bearer-t0ken-1234567890",
    "pg-passw0rd",
    "0a1b2c3d4e5f60718293a4b5c6d7e8f9",
    "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "patient-314159",
)
GIVEN = "parameter-s3cret-1"
SECRETS = (*IN_THE_FUNCTION.values(), *IN_SSM.values(), *IN_THE_ENVIRONMENT.values(), *LOOKING_LIKE_ONE, GIVEN)

SETUP = """import base64, os, sys, time
from IPython.display import HTML, JSON, Latex, Markdown, SVG, display
from buddy_ops.notebook.opening import open_runbook
settings_, token = settings, api_token
del settings, api_token, at, how, flag, secret
target = open_runbook("tiny", globals())"""

CELLS = (
    "import os\nfrom buddy_ops.aws import notifications, session as door\nhere = door.connect(environment, 'tiny')\nsecret",
    # What the library reads is learned as it is read.
    "found = here.client('lambda').get_function_configuration(FunctionName=here.settings.function)\n"
    "values = found['Environment']['Variables']\nprint(values)\nvalues",
    "hooks = [notifications.read_secret(here, f'ssm:{name}') for name in ('/buddy/webhook', '/buddy/status')]\nprint(*hooks)",
    "print('in two pieces: ' + hooks[1][:6], end='', flush=True)\nprint(hooks[1][6:], flush=True)",
    "import sys\nfor name in ('SOME_TOKEN', 'SLACK_WEBHOOK_URL', 'AWS_SESSION_TOKEN', 'MY_API_KEY'):\n"
    "    print(name, os.environ[name], file=sys.stderr)",
    # Logged by a version of the function, and known to nobody here.
    "print('2026-11-22 ERROR cannot connect with zx81-spectrum-48')",
    "from IPython.display import HTML, JSON, Latex, Markdown, display\nimport html, base64\n"
    "for value in values.values():\n"
    "    display(HTML(f'<b>{html.escape(value)}</b>'), Markdown(f'`{value}`'), JSON({'x': [value], value: 1}), Latex(value))\n"
    "    display({'image/svg+xml': f'<svg><text>{value}</text></svg>', 'text/plain': value}, raw=True)\n"
    "    display({'image/png': base64.b64encode(b'tEXt' + value.encode()).decode()}, metadata={'alt': value}, raw=True)\n"
    "    print(base64.b64encode(('user:' + value).encode()).decode(), repr(value), [value])",
    "handle = display('before', display_id=True)\nhandle.update(hooks[0])",
    "print(LOOK)",
    "here.journal.append('aws', call='sns:publish', parameters={'Message': LOOK, 'nested': [values]}, object=Exception(hooks))",
    "import warnings\nwarnings.warn(f'deprecated: {hooks[1]}')\nhere.announce = values",
    "def connect(password, dsn):\n    raise ValueError(f'cannot connect with {password} to {dsn}')\n"
    "try:\n    connect(values['DB_PASSWORD'], hooks)\nexcept ValueError as error:\n"
    "    raise RuntimeError(f'<script>alert(1)</script> {values} {LOOK}') from error",
)


def look() -> str:
    """The secrets that nobody knows, as they stand in texts."""
    told = list(LOOKING_LIKE_ONE)
    told[10] = f"-----BEGIN PRIVATE KEY-----\n{told[10]}\n-----END PRIVATE KEY-----"
    told[11] = f"Authorization: Bearer {told[11]}"
    told[12] = f"postgres://buddy:{told[12]}@db.example.com/buddy"
    told[13] = f"https://b.example.com/x?X-Amz-Signature={told[13]}"
    told[14] = f"aws_secret_access_key = {told[14]}"
    return "\n".join(told)


def forms(secret: str) -> set[bytes]:
    found = {secret, json.dumps(secret)[1:-1], html.escape(secret), urllib.parse.quote(secret), repr(secret)[1:-1]}
    found |= {base64.b64encode(secret.encode()).decode().rstrip("=")[:-2], *secret.splitlines()}
    found |= {base64.b64encode(b"user:" + secret.encode()).decode()[8:-4]} if len(secret) > 8 else set()
    return {form.encode() for form in found}


def test_thirty_secrets_reach_no_byte_of_the_archive(situation: Bring) -> None:
    """Not in outputs, tracebacks, sources, metadata, parameters, journal, page, index, summary, or on the terminal."""
    assert len(SECRETS) == 30 and len(set(SECRETS)) == 30
    here = situation("good", history_minutes=0, requests_per_minute=0)
    here.client("lambda").update_function_configuration(
        FunctionName=here.function, Environment={"Variables": {**IN_THE_FUNCTION, "ENABLE_X": "true", "STAGE": "prod"}}
    )
    for name, value in IN_SSM.items():
        here.client("ssm").put_parameter(Name=name, Value=value, Type="SecureString")
    cells = [each.replace("LOOK", repr(look())) for each in CELLS]
    notebook = tiny(here.folder / "project", *cells)
    document = json.loads(notebook.read_text())
    document["metadata"]["note"] = document["cells"][2]["metadata"]["note"] = look()
    document["cells"].insert(1, {"cell_type": "markdown", "id": "prose", "metadata": {}, "source": look()})
    document["cells"][2]["source"] += '\napi_token: str = ""  # a secret in a parameter'
    notebook.write_text(json.dumps(document))
    settings = notebook.parents[1] / "parameters" / "sandbox.yaml"
    given = yaml.safe_load(settings.read_text())
    given["settings"]["archive"] = {"redact": [r"patient-\d+"]}
    settings.write_text(yaml.safe_dump(given))
    done = subprocess.run(
        [BIN / "buddy-ops", "run", "tiny", "-p", f"api_token={GIVEN}", "-p", f"at={look()}"],
        cwd=notebook.parents[1],
        capture_output=True,
        timeout=120,
        env={**os.environ, **IN_THE_ENVIRONMENT, "GITHUB_STEP_SUMMARY": str(here.folder / "summary.md")},
        check=False,
    )
    assert done.returncode == 1, done.stderr.decode()
    archived = [path for path in (here.folder / "run").rglob("*") if path.is_file()]
    archived += [here.folder / name for name in ("index.json", "index.html", "summary.md", ".lock")]
    texts = {path.name: path.read_bytes() for path in archived} | {"stdout": done.stdout, "stderr": done.stderr}
    assert len(texts) == 10
    leaks = [
        (name, secret) for name, text in texts.items() for secret in SECRETS for form in forms(secret) if form in text
    ]
    assert leaks == []
    executed = texts["notebook.ipynb"].decode()
    assert executed.count("[redacted]") > 60 and "ENABLE_X" in executed and "'true'" in executed
    states = re.findall(r'"state": "([\w ]+)"', executed)
    assert states.count("failed") == 1 and states.count("not run") == 0, states
    assert "cannot connect with [redacted]" in executed
    assert verification.verify_archive(alone(here.folder, here.folder / "alone")).problems == ()


MATRIX = (
    "import json, logging, sys\nfrom pathlib import Path\nfrom IPython.display import HTML, display\n"
    "from buddy_ops.aws import notifications, session as door\nhere = door.connect(environment, 'tiny')\n"
    "every = json.loads(Path('encoded.json').read_text())\nlines = '\\n'.join(f'value {each} end' for each in every)\n"
    "bare = '\\n'.join(every)\ndel at, how, flag, secret",
    "print(lines)\nprint(bare)",
    "print(lines, file=sys.stderr)\nprint(bare, file=sys.stderr)",
    "logger = logging.getLogger('skill')\nlogger.addHandler(logging.StreamHandler())\n"
    "for each in every:\n    logger.warning('got %s', each)",
    "display(HTML(''.join(f'<p>value <i>{each}</i></p>' for each in every)))",
    "display('x', metadata={'alt': every, 'all': lines})",
    "for each in every:\n    here.journal.append('said', text=each)\nhere.journal.append('said', text=bare, more=every)",
    "notifications.announce(here, lines)",
    "raise ValueError(lines)",
)


@pytest.mark.whole
@pytest.mark.timeout(360)
def test_no_token_in_any_encoding_reaches_the_archive_of_a_run(situation: Bring) -> None:
    """A hundred forms in 22 encodings, through a kernel: stdout, stderr, logging, HTML, metadata, journal, messages and
    the traceback, and what the terminal shows."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    notebook = tiny(here.folder / "project", *MATRIX)
    made = [(encode, token) for token in tokens(seed=14) for encode in ENCODINGS.values()]
    (notebook.parents[1] / "encoded.json").write_text(json.dumps([encode(token) for encode, token in made]))
    done = subprocess.run(
        [BIN / "buddy-ops", "run", "tiny"],
        cwd=notebook.parents[1],
        capture_output=True,
        timeout=300,
        env={**os.environ, "GITHUB_STEP_SUMMARY": str(here.folder / "summary.md")},
        check=False,
    )
    assert done.returncode == 1, done.stderr.decode()
    files = [path for path in (here.folder / "run").rglob("*") if path.is_file()]
    files += [here.folder / name for name in ("index.json", "index.html", "summary.md")]
    texts = {path.name: path.read_bytes() for path in files} | {"stdout": done.stdout, "stderr": done.stderr}
    assert texts["notebook.ipynb"].count(MARK.encode()) > 7 * len(made)
    assert b"ValueError" in texts["notebook.ipynb"]
    pieces = {middle(encode, token) for encode, token in made}
    wanted = {form.encode() for piece in pieces for form in (piece, json.dumps(piece)[1:-1]) if piece.isprintable()}
    assert [(name, form) for name, text in texts.items() for form in wanted if form in text] == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{slack_webhook: WEBHOOK}", "settings.notify.slack_webhook: String should match"),
        ("WEBHOOK", "settings.notify: Input should be a valid dictionary"),
        ("{slack_webhook: WEBHOOK", "not YAML in line "),
    ],
)
def test_a_webhook_that_was_written_plainly_is_refused_in_silence(tmp_path: Path, given: str, said: str) -> None:
    """In an environment's file: exit code 2 before a kernel starts; where it stands is said, and never what it is."""
    project = tiny(tmp_path / "project", "print('ran')").parents[1]
    file = project / "parameters" / "sandbox.yaml"
    secret = "https://chat.example.com/services/T0/B0/s3cr3t"
    file.write_text(file.read_text("utf-8") + f"  notify: {given.replace('WEBHOOK', secret)}\n", "utf-8")
    done = subprocess.run(
        [BIN / "buddy-ops", "run", "tiny"],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")},
        check=False,
    )
    summary = (tmp_path / "summary.md").read_text("utf-8")
    assert done.returncode == 2 and "invalid-settings" in done.stderr and said in done.stderr
    assert not any(part in done.stdout + done.stderr + summary for part in ("s3cr3t", "chat"))
    assert not (project / "runs").exists()


HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">'`|$(touch owned);\\ ${x} %0A"


def test_values_that_are_code_do_no_harm(situation: Bring) -> None:
    """In parameters, outputs and errors: page, index and summary show them as text, and no shell sees them."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    notebook = tiny(here.folder / "project", "print(at)\nat", "raise ValueError(at)")
    done = subprocess.run(
        [BIN / "buddy-ops", "run", "tiny", "-p", f"at={HOSTILE}", "-p", f"secret=[{json.dumps(HOSTILE)}]"],
        cwd=notebook.parents[1],
        capture_output=True,
        timeout=120,
        text=True,
        env={**os.environ, "GITHUB_STEP_SUMMARY": str(here.folder / "summary.md")},
        check=False,
    )
    assert done.returncode == 1 and "document.title" in done.stderr
    assert not list(here.folder.rglob("owned"))
    for page in (here.folder / "run" / "report.html", here.folder / "index.html"):
        tags = re.findall(r"<\w[^>]*>", page.read_text("utf-8"))
        assert not [tag for tag in tags if "onerror" in tag or "owned" in tag]
        assert "default-src 'none'" in page.read_text("utf-8")
    said = (here.folder / "summary.md").read_text("utf-8")
    plain = re.sub(r"&#\d+;", "", said)
    assert "document" in said and not set("<`$[(;\\\"'") & set(plain)
    assert json.loads((here.folder / "run" / "manifest.json").read_text())["parameters"]["at"] == HOSTILE
