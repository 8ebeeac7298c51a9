"""Bad inputs from a seed, and a process that gives each to a child with limits of memory and time.

A case is a number: its kind and everything in it follow from that. ``python -m tests.system.bad_inputs`` is the process:
it has imported the library, and forks for each case that comes on stdin.
"""

import io
import json
import os
import random
import resource
import signal
import struct
import sys
import time
import traceback
import zipfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

MEMORY = 512 * 1024**2
"""Bytes of address space that a child has."""

LIMIT_S = 10
ROOT = Path(__file__).parents[2]
KINDS = ("zip", "yaml", "notebook", "parameters", "record", "archive")

TOKENS = [
    *(
        "[",
        "]",
        "{",
        "}",
        ":",
        ",",
        "-",
        "?",
        "!",
        "&a ",
        "*a",
        "#",
        "|",
        ">",
        "%",
        "@",
        "`",
        '"',
        "'",
        "\n",
        "  ",
        "\t",
    ),
    *(
        "!!python/object/apply:os.system [id]",
        "!!timestamp 2026-99-99",
        "!!binary x",
        "<<: *a",
        ".nan",
        ".inf",
        "1e999",
    ),
    *(
        "010",
        "22:30",
        "0042",
        "yes",
        "null",
        "1e3",
        "~",
        "0x_",
        "2026-11-22T03:12:00Z",
        "\0",
        "\x1b[31m",
        "\u202e",
        "é",
    ),
    *("[" * 3000, "{a: " * 500, "9" * 5000, "x" * 5000, "a: &a [x,x]\n", "settings:", "policy:", "environment:", "---"),
]


@dataclass(frozen=True)
class Case:
    """One bad input: files to write, relative to a project, and the command that reads them."""

    kind: str
    files: dict[str, bytes]
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Ending:
    """How a child ended; ``code`` is -signal where it was killed."""

    code: int
    out: str
    err: str
    wall_s: float
    cpu_s: float
    peak_mb: float


def make(number: int) -> Case:
    """The case of this number."""
    dice = random.Random(number)
    kind = KINDS[number % len(KINDS)]
    return MAKERS[kind](dice)


# Zips


def _zip(dice: random.Random) -> Case:
    content = dice.choice(ZIPS)(dice)
    content = _damaged_bytes(dice, content) if dice.random() < 0.7 else content
    return Case("zip", {"build/bad.zip": content}, ("run", "strategies/canary", "-p", "artifact=build/bad.zip"))


def _packed(entries: list[tuple[str, bytes, int]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, content, mode in entries:
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = method
            entry.create_system = 3
            entry.external_attr = mode << 16
            archive.writestr(entry, content)
    return packed.getvalue()


def _ordinary(dice: random.Random) -> bytes:
    files = [(f"lib/{number}.py", dice.randbytes(dice.randrange(300)), 0o100644) for number in range(dice.randrange(9))]
    return _packed([("lambda_function.py", b"print(1)\n" * 50, 0o100644), *files])


def _named(dice: random.Random) -> bytes:
    names = [
        "../x",
        "/etc/x",
        "C:\\x",
        "a\\..\\x",
        "a/../../x",
        "a\x1b[2J",
        "\u202ea",
        "a" * 300,
        ".",
        "..",
        "a//b",
        "\n",
    ]
    return _packed([(dice.choice(names), b"1", 0o100644), ("a.py", b"2", 0o100644)])


def _linked(dice: random.Random) -> bytes:
    targets = [b"../x", b"/etc/passwd", b"a/../../..", b"\xff", b"", b"x" * 9000, b"link/../.."]
    return _packed(
        [("a.py", b"1", 0o100644), ("link", dice.choice(targets), dice.choice([0o120777, 0o020666, 0o010666]))]
    )


def _bomb(dice: random.Random) -> bytes:
    return _packed([("zeros", bytes(dice.randrange(1, 60) * 1024**2), 0o100644)])


def _other_method(dice: random.Random) -> bytes:
    return _packed([("a.py", dice.randbytes(300), 0o100644)], dice.choice([zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2]))


def _directory_lies(dice: random.Random) -> bytes:
    """One field of the directory or of the end record has another value."""
    content = bytearray(_ordinary(dice))
    start = content.index(b"PK\x01\x02") if dice.random() < 0.7 else content.rindex(b"PK\x05\x06")
    offset, form = dice.choice(
        [(8, "<H"), (10, "<H"), (16, "<L"), (20, "<L"), (24, "<L"), (28, "<H"), (38, "<L"), (42, "<L")]
    )
    value = dice.choice([0, 1, 0xFFFF, dice.randrange(0xFFFF), 0xFFFFFFFF, 300 * 1024**2, dice.randrange(0xFFFFFFFF)])
    if start + offset + struct.calcsize(form) <= len(content):
        struct.pack_into(form, content, start + offset, value & (0xFFFF if form == "<H" else 0xFFFFFFFF))
    return bytes(content)


def _many_names(dice: random.Random) -> bytes:
    """One file under many names: small to store, large to unpack."""
    one = _packed([("0000", bytes(1024**2), 0o100644)])
    start, end = one.index(b"PK\x01\x02"), one.rindex(b"PK\x05\x06")
    count = dice.randrange(2, 3000)
    records = b"".join(one[start : start + 46] + f"{number:04}".encode() for number in range(count))
    return one[:start] + records + one[end : end + 8] + struct.pack("<2H2LH", count, count, len(records), start, 0)


def _noise(dice: random.Random) -> bytes:
    return dice.choice([b"", b"PK", b"PK\x03\x04", b"PK\x05\x06" + bytes(18), b"\x1f\x8b"]) + dice.randbytes(
        dice.randrange(200)
    )


ZIPS: list[Callable[[random.Random], bytes]] = [
    _ordinary, _ordinary, _ordinary, _named, _linked, _other_method, _directory_lies, _directory_lies, _noise,
]  # fmt: skip
RARE = [_bomb, _many_names]
ZIPS += RARE


def _damaged_bytes(dice: random.Random, content: bytes) -> bytes:
    """Cut, flipped, doubled, with a hole or with noise in it."""
    damaged = bytearray(content)
    for _ in range(dice.randrange(1, 4)):
        place = dice.randrange(len(damaged) + 1)
        how = dice.randrange(5)
        if how == 0:
            del damaged[place:]
        elif how == 1 and place < len(damaged):
            damaged[place] ^= dice.randrange(1, 256)
        elif how == 2:
            damaged[place:place] = dice.randbytes(dice.randrange(1, 40))
        elif how == 3:
            del damaged[place : place + dice.randrange(1, 40)]
        else:
            damaged += damaged[place : place + 2000]
    return bytes(damaged)


# Texts


def _damaged_text(dice: random.Random, text: str) -> str:
    """Lines doubled, swapped, cut, moved to the left or right, or with something in them that is not theirs."""
    lines = text.split("\n")
    for _ in range(dice.randrange(1, 5)):
        place = dice.randrange(len(lines))
        line = lines[place]
        how = dice.randrange(7)
        if how == 0:
            lines.insert(dice.randrange(len(lines)), line)
        elif how == 1:
            lines[place] = line[: dice.randrange(len(line) + 1)]
        elif how == 2:
            lines[place] = dice.choice(["  ", "\t", " "]) + line
        elif how == 3:
            lines[place] = line.lstrip()
        elif how == 4:
            cut = dice.randrange(len(line) + 1)
            lines[place] = line[:cut] + dice.choice(TOKENS) + line[cut:]
        elif how == 5:
            head, colon, _ = line.partition(":")
            lines[place] = head + colon + " " + dice.choice(TOKENS)
        else:
            del lines[place]
            lines = lines or [""]
    return "\n".join(lines)


def _bomb_text(dice: random.Random) -> str:
    names = "abcdefghi"[: dice.randrange(3, 9)]
    lines = [f"{names[0]}: &{names[0]} [{','.join('x' * 9)}]"]
    lines += [f"{later}: &{later} [{','.join(['*' + before] * 9)}]" for before, later in pairwise(names)]
    return "\n".join(lines) + "\n"


def _encoded(dice: random.Random, text: str) -> bytes:
    content = text.encode(errors="replace")
    return _damaged_bytes(dice, content) if dice.random() < 0.1 else content


def _yaml(dice: random.Random) -> Case:
    text = (ROOT / "parameters" / "sandbox.yaml").read_text("utf-8")
    how = dice.randrange(10)
    if how == 0:
        text = _bomb_text(dice) + text
    elif how == 1:
        text = "".join(dice.choice(TOKENS) for _ in range(dice.randrange(30)))
    elif how == 2:
        text = dice.choice(["[", "{a: ", "- ", "? ", "&a [", "<<: {"]) * dice.randrange(1, 100_000)
    else:
        text = _damaged_text(dice, text)
    return Case("yaml", {"parameters/sandbox.yaml": _encoded(dice, text)}, ("run", "strategies/canary"))


def _notebook(dice: random.Random) -> Case:
    text = (ROOT / "notebooks" / "strategies" / "canary.ipynb").read_text("utf-8")
    how = dice.randrange(8)
    if how == 0:
        text = dice.choice(["[", '{"a":', '[{"a":']) * dice.randrange(1, 200_000)
    elif how == 1:
        text = json.dumps(_other_values(dice, json.loads(text)))
    elif how == 2:
        text = json.dumps(_other_values(dice, json.loads(text)))
        text = text.replace(
            '"nbformat": 4', dice.choice(['"nbformat": 3', '"nbformat": "4"', '"x": 4', '"nbformat": 4'])
        )
    elif how == 3:
        document = json.loads(text)
        cell = next(cell for cell in document["cells"] if "parameters" in cell["metadata"].get("tags", ()))
        cell["source"] = _damaged_text(dice, "".join(cell["source"]))
        text = json.dumps(document)
    else:
        text = _damaged_text(dice, text)
    return Case("notebook", {"notebooks/bad.ipynb": _encoded(dice, text)}, ("run", "bad"))


ODD: list[object] = [
    None,
    True,
    0,
    -1,
    3.5,
    "",
    "x",
    [],
    {},
    [[]],
    {"a": {}},
    "\ud800",
    "9" * 400,
    ["parameters"],
    "code",
]


def _other_values(dice: random.Random, document: Any) -> Any:
    """A document with a few of its values replaced by others, or left out, at any depth."""
    for _ in range(dice.randrange(1, 4)):
        place = document
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = dice.choice(keys)
            if isinstance(place[key], dict | list) and place[key] and dice.random() < 0.7:
                place = place[key]
                continue
            if dice.random() < 0.3:
                del place[key]
            else:
                place[key] = deepcopy(dice.choice(ODD))
            break
    return document


def _parameters(dice: random.Random) -> Case:
    names = [
        "artifact",
        "stages",
        "bake_minutes",
        "approved_by",
        "approved_plan",
        "break_glass",
        "dry_run",
        "settings",
        "artefact",
    ]
    runbooks = ["strategies/canary", "rollback/immediate", "start_here"]
    arguments = ["run", dice.choice(runbooks if dice.random() < 0.95 else ["../x", "a" * 300, "\x1b[2J"])]
    for _ in range(dice.randrange(1, 4)):
        text = "".join(dice.choice(TOKENS) for _ in range(dice.randrange(1, 6))).replace("\0", "")
        if dice.random() < 0.7:
            arguments += ["-p", f"{dice.choice(names)}={text}"[:20_000]]
        else:
            arguments += [f"--parameters={{{dice.choice(names)}: {text}}}"[:20_000]]
    if dice.random() < 0.2:
        arguments += ["-e", dice.choice(["../prod", "", "prod\n", "x" * 300, "sandbox/../sandbox"])]
    return Case("parameters", {}, tuple(arguments))


# Records and archives

ALIAS = {
    "v": 1,
    "run": "7f3a",
    "from": "41",
    "to": "42",
    "stage": "1",
    "since": "2026-11-22T03:12:00Z",
    "bad": ["40"],
    "ago": [1],
}
FREEZE = {"reason": "x", "owner": "Ada", "expires": "2026-11-23T00:00:00Z"}
ISOLATION = {"how": "function", "table": "", "since": "2026-11-22T03:12:00Z", "run": "7f3a", "before": None}
ITEM = {"name": "code reviewed", "state": "yes", "says": "x", "by": "Ada"}
CHECKLIST = {"at": "2026-11-22T03:12:00Z", "run": "7f3a", "principal": "arn", "items": [ITEM]}
RECORDS = {"alias": ALIAS, "freeze": FREEZE, "isolation": ISOLATION, "checklist": CHECKLIST}


def _record(dice: random.Random) -> Case:
    name = dice.choice(list(RECORDS))
    text = json.dumps(_other_values(dice, json.loads(json.dumps(RECORDS[name]))))
    how = dice.randrange(5)
    if how == 0:
        text = _damaged_text(dice, text)
    elif how == 1:
        text = text.replace("{", '{"run": 1, "run": [], ', 1)
    elif how == 2:
        text = dice.choice(["[", '{"a":', "9", "NaN,"]) * dice.randrange(1, 50_000)
    return Case("record", {"record": text.encode(errors="replace")}, ("record", name))


def _archive(dice: random.Random) -> Case:
    files = dict(ARCHIVE)
    name = dice.choice(list(files))
    content = files[name]
    how = dice.randrange(5)
    if how == 0:
        content = _damaged_bytes(dice, content)
    elif how == 1:
        content = dice.choice([b"[", b'{"a":', b"[1,"]) * dice.randrange(1, 100_000)
    elif name.endswith((".json", ".ipynb")) and how < 4:
        content = json.dumps(_other_values(dice, json.loads(content))).encode()
    else:
        content = _damaged_text(dice, content.decode(errors="replace")).encode(errors="replace")
    files[name] = content
    if dice.random() < 0.3:
        files = {
            name: content
            for name, content in files.items()
            if not name.endswith(dice.choice(["index.json", "manifest.json"]))
        }
    command = dice.choice([("verify",), ("list",), ("index",), ("show", "0001"), ("diff", "0001", "0002")])
    return Case(
        "archive",
        {f"archive/{name}": content for name, content in files.items()},
        ("runs", *command, "--archive", "archive"),
    )


ARCHIVE: dict[str, bytes] = {}
"""A good archive's files; the test puts them here."""

MAKERS: dict[str, Callable[[random.Random], Case]] = {
    "zip": _zip, "yaml": _yaml, "notebook": _notebook, "parameters": _parameters, "record": _record, "archive": _archive,
}  # fmt: skip


# The process


def read_record(name: str, text: str) -> None:
    """Read a record as the library does where AWS answers with it."""
    from datetime import UTC, datetime

    from buddy_ops.aws import aliases, checklist_store, freezes, isolation
    from buddy_ops.core import settings

    def answer(**_: Any) -> dict[str, Any]:
        path = {"freeze": "/buddy-ops/buddy-alexa-skill-sandbox/live/freeze/x"}.get(
            name, "/buddy-ops/buddy-alexa-skill-sandbox/live/records/pre_deployment/abc/1"
        )
        found = {"Name": path, "Value": text}
        return {
            "Parameters": [found], "Parameter": found, "Name": "live", "FunctionVersion": "1", "RevisionId": "r",
            "Description": text,
        }  # fmt: skip

    now = datetime(2026, 11, 22, 3, 12, tzinfo=UTC)
    client = SimpleNamespace(
        get_alias=answer, get_parameter=answer, get_parameters_by_path=answer,
        get_paginator=lambda _: SimpleNamespace(paginate=lambda **__: iter((answer(),))),
    )  # fmt: skip
    target = cast(
        Any,
        SimpleNamespace(
            environment="sandbox", resource="buddy:live", settings=settings.Settings(function="buddy"), run="7f3a",
            clock=SimpleNamespace(now=lambda: now), client=lambda _: client, region="eu-west-1",
        ),
    )  # fmt: skip
    if name == "alias":
        print(aliases.describe(target, aliases.read_alias(target)))
    elif name == "freeze":
        freezes.require_unfrozen(target)
    elif name == "isolation":
        print(isolation.read_isolation(target))
    else:
        print(checklist_store.newest_result(target, "pre_deployment", "abc"))


def _execute(arguments: list[str]) -> None:
    from buddy_ops.cli import main
    from buddy_ops.core.errors import BuddyError

    if arguments[0] == "record":
        try:
            read_record(arguments[1], Path("record").read_text("utf-8", errors="replace"))
        except BuddyError as error:
            print(error, file=sys.stderr)
            raise SystemExit(error.exit_code) from None
        raise SystemExit(0)
    sys.argv = ["buddy-ops", *arguments]
    main.app()


def _child(job: dict[str, Any]) -> None:
    os.setsid()
    os.chdir(job["folder"])
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    code = 70
    try:
        _execute(job["arguments"])
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 71
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def serve() -> None:
    """A JSON job a line: fork, wait, and answer how the child ended, a line each."""
    import buddy_ops.aws.session
    import buddy_ops.cli.main
    import buddy_ops.runs.diff
    import buddy_ops.runs.supervisor
    from buddy_ops.core import project

    project.read_settings("sandbox")  # builds the models, once for all children
    del buddy_ops
    for line in sys.stdin:
        job = json.loads(line)
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            _child(job)
        while (ended := os.wait4(child, os.WNOHANG))[0] == 0:
            if time.monotonic() - started > LIMIT_S:
                os.killpg(child, signal.SIGKILL)
            time.sleep(0.002)
        _, status, usage = ended
        answer = {
            "code": os.waitstatus_to_exitcode(status),
            "wall_s": time.monotonic() - started,
            "cpu_s": usage.ru_utime + usage.ru_stime,
            "peak_mb": usage.ru_maxrss / 1024,
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
