"""A hundred forms of tokens in 22 encodings, and known values in the same: nothing of them is left, and nothing else goes."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

from buddy_ops.core.redaction import MARK, Redactor
from buddy_ops.runs import archive
from tests.core.tokens import ENCODINGS, FORMS, secret_part, tokens

KNOWN = ("Tr0ub4dor&3-plum/tree+x=1", "0f1e2d3c4b5a69", 'kiln.Otter 7 <x> "q"', "geheimnis-4711-äöü")


def middle(encode: Callable[[str], str], token: str) -> str:
    """A piece of an encoded token: from amid what would be written otherwise if its secret part were another."""
    inner = secret_part(token)
    encoded = encode(token)
    other = encode(token.replace(inner, "".join("9" if character == "8" else "8" for character in inner)))
    differs = [number for number, pair in enumerate(zip(encoded, other, strict=False)) if pair[0] != pair[1]]
    place = (differs[0] + differs[-1]) // 2
    return encoded[max(differs[0], place - 16) : min(differs[-1] + 1, place + 16)]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_no_form_of_token_is_left_in_any_encoding(encoding: str) -> None:
    """Each is cut out of its line, and the words around it stay."""
    assert len(FORMS) >= 60 and len(ENCODINGS) >= 12
    redactor = Redactor()
    left = []
    for token in tokens(seed=11):
        encoded = ENCODINGS[encoding](token)
        found = redactor.redact(f"before {encoded} after")
        whole = found.startswith("before ") and found.endswith(" after")
        if MARK not in found or middle(ENCODINGS[encoding], token) in found or not whole:
            left.append((token, found))
    assert left == []


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_no_known_value_is_left_in_any_encoding(encoding: str) -> None:
    """Values without a form, with signs that encodings write otherwise."""
    redactor = Redactor()
    left = []
    # Base64 of other letters than ASCII's is found in one line only.
    for value in filter(str.isascii, KNOWN) if "wrapped" in encoding else KNOWN:
        redactor.add_secret(value)
        encoded = ENCODINGS[encoding](value)
        found = redactor.redact(f"before {encoded} after")
        if MARK not in found or middle(ENCODINGS[encoding], value) in found:
            left.append((value, found))
    assert left == []


SLICES = [
    pytest.param(slice(0, None, 6), id="sample"),
    *(pytest.param(slice(part, None, 5), id=f"{part}", marks=pytest.mark.whole) for part in range(5)),
]
"""Every day a sample of the tokens; all of them in parts where the whole is asked for."""


@pytest.mark.parametrize("part", SLICES)
def test_no_token_is_left_in_any_file_of_an_archive(tmp_path: Path, part: slice) -> None:
    """In stdout, stderr, log lines, tracebacks, HTML, metadata, journal and manifest, whatever its encoding."""
    some = tokens(seed=12)[part]
    every = [encode(token) for token in some for encode in ENCODINGS.values()]
    lines = "\n".join(f"value {encoded} end" for encoded in every)
    markup = "".join(f"<p>value <i>{encoded}</i></p>" for encoded in every)
    output = nbformat.v4.new_output
    outputs = [
        output("stream", name="stdout", text=lines),
        output("stream", name="stderr", text=lines),
        output("stream", name="stderr", text="\n".join(f"2026-11-22 ERROR:root:{encoded}" for encoded in every)),
        output("error", ename="ValueError", evalue=every[0], traceback=lines.splitlines()),
        output("display_data", {"text/html": markup, "text/plain": lines}, metadata={"alt": every}),
    ]
    cell = nbformat.v4.new_code_cell(lines, outputs=outputs, metadata={"buddy_ops": {"state": "done"}, "note": every})
    about = {"run": "7f3a", "runbook": "tiny", "environment": "sandbox", "parameters": {"at": every}}
    folder = tmp_path / "run"
    folder.mkdir()
    document = nbformat.v4.new_notebook(cells=[cell], metadata={"buddy_ops": about, "note": every})
    (folder / archive.NOTEBOOK).write_text(nbformat.writes(document))
    records: list[dict[str, object]] = [{"seq": 0, "kind": "told", "text": "\n".join(every)}]
    records += [{"seq": number, "kind": "told", "text": encoded} for number, encoded in enumerate(every)]
    (folder / archive.JOURNAL).write_text("".join(json.dumps(record) + "\n" for record in records))
    archive.append_to_chain(folder, archive.build_manifest(folder, Redactor(), trouble=lines))
    texts = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {"notebook.ipynb", "journal.jsonl", "manifest.json", "report.html", "index.json"} <= set(texts)
    pieces = {middle(encode, token) for token in some for encode in ENCODINGS.values()}
    forms = {form.encode() for piece in pieces for form in (piece, json.dumps(piece)[1:-1]) if piece.isprintable()}
    assert [(name, form) for name, text in texts.items() for form in forms if form in text] == []


@pytest.mark.parametrize("part", SLICES)
def test_no_token_is_sent_in_a_message(monkeypatch: pytest.MonkeyPatch, part: slice) -> None:
    """To Slack, to SNS, to a channel of Apprise, and to the status page."""
    from buddy_ops.aws import notifications
    from buddy_ops.core.settings import AppriseChannel, NotificationSettings, StatusPage

    sent: list[str] = []
    monkeypatch.setattr(notifications, "_post", lambda *given, **_: sent.append(json.dumps(given[2])))
    monkeypatch.setattr(notifications, "read_secret", lambda *_: "https://chat.example.com/h")
    monkeypatch.setattr(notifications, "_send_by_apprise", lambda *given: sent.append(json.dumps(given[2])))
    page = StatusPage(url="https://status.example.com", page_id="p1", token="env:NO_TOKEN")
    target = SimpleNamespace(
        settings=SimpleNamespace(
            function="shop",
            notify=NotificationSettings(
                slack_webhook="env:X",
                topic_arn="arn:t",
                status_page=page,
                channels=(AppriseChannel(name="PagerDuty", url="env:Y"),),
            ),
        ),
        environment="prod",
        run="7f3a",
        redactor=Redactor(),
        journal=SimpleNamespace(append=lambda *_, **fields: sent.append(json.dumps(fields))),
        client=lambda _: SimpleNamespace(publish=lambda **fields: sent.append(json.dumps(fields))),
    )
    some = tokens(seed=13)[part]
    every = [encode(token) for token in some for encode in ENCODINGS.values()]
    for begin in range(0, len(every), 200):
        text = "\n".join(every[begin : begin + 200])
        notifications.announce(target, text)  # type: ignore[arg-type]
        notifications.publish_status(target, text, text)  # type: ignore[arg-type]
    pieces = [middle(encode, token) for token in some for encode in ENCODINGS.values()]
    whole = "\n".join(sent)
    assert len(sent) > 5 and not [piece for piece in pieces if json.dumps(piece)[1:-1] in whole]
