"""Which sentences use words that operators should not have to read? ``python -m tests.system.words PATH...``.

Scanned is what an operator reads: Markdown, cells of notebooks, comments and descriptions in YAML, and in Python each
text with more than one word, docstrings of public names included. Not scanned: code, text in backticks, and data such
as ``"lease-fired"`` (one lower-case word, or a key of a dictionary). A line that ends with ``# words: data`` is exempt.
"""

import ast
import io
import json
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
READABLE = {".md", ".ipynb", ".py", ".yaml", ".yml", ".toml"}
GENERATED = (str(ROOT / "docs" / "runbooks"), str(ROOT / "docs" / "reference" / "api"))
EXEMPT = "# words: data"

WORDS = {
    r"burn(s|ed|ing|t)?": "HIGH, or over the limit",
    r"hurt(s|ing)?": "users are affected",
    r"(take|taken|takes|taking|took|give|gives|given|gave)( \S+){0,4} (back|away)": "roll back, or remove",
    r"odds": "confidence 99 %, or p < 0.01",
    r"(un|dis)?prov(e|ed|en|es|ing)": "healthy, inconclusive, or verified",
    r"(?<!break[-_])glass(es)?": "emergency override (break-glass)",
    r"hear(s|d|ing)?": "is notified",
    r"told|tells?|telling": "notified, or shows",
    r"answer(s|ed|ing)? for": "verified by",
    r"mend(s|ed|ing)?": "fix",
    r"stands?|stood": "is",
    r"anew": "again, or recreate",
    r"shall": "must, or an imperative",
    r"knows|knew|(?<!you )(?<!I )do(es)? not know": "supports, or is compatible with",
    r"known bad": "marked bad",
    r"shap(e|es|ed|ing)": "schema, or form",
    r"(die|dies|died|dying|dead|death|deaths)(?!-letter)": "is lost, or stops responding",
    r"(by|an|no|your|any|another) order|orders|ordered": "operator action",
    r"look(s|ed|ing)?(?! up)": "check, or review",
    r"(?<!as )well(?!-)": "healthy",
    r"(some|no)body|whoever|whomever": "someone, no one, or the role",
    r"in peace|leave (it|that|them) alone": "no action needed",
    r"back to bed": "no action needed",
    r"turned away": "throttled",
    r"by hand": "manually",
    r"worr(y|ies|ied)": "stop if",
    r"blam(e|es|ed)": "attributed to",
    r"unfaulted|faults it": "unverified",
    r"people come in|come in again": "traffic is re-enabled",
    r"sa(y|ys|id) again": "restore",
    r"outvotes?": "override",
    r"wants|(?<!you )want": "requires",
    r"gone on with|goes? on with|went on with": "resume",
    r"under way": "in progress",
    r"surely": "(leave it out)",
    r"settle(s|d)? it": "decide it",
    r"set(s|ting)? off": "trigger",
    r"(has|have) taken in|takes? in|took in": "AWS is still applying the update",
    r"dead[- ]man'?s": "failsafe",
    r"leases?(?!\.)": "failsafe",
    r"guard (fires|fired)|fires": "the failsafe runs",
    r"powers": "permissions",
    r"shelf|shelves|doomed|last words|rooms?|house": "(plain words)",
    r"begun to|come to serve|came to serve": "was deployed",
    r"another story": "undetected change",
    r"leans? on|speaks? for": "uses, or applies to",
    r"virtual seconds": "clock speed",
    r"of everything": "(name it)",
}
"""What to write instead, by regular expression: shared/STYLE, rules 7 to 10 and the phrases in its tables."""

ONE_WORD = re.compile(r"[a-z0-9_.:/*#@{}…-]*")
PATTERNS = [(re.compile(rf"(?<![\w-])(?:{word})(?![\w-])", re.IGNORECASE), better) for word, better in WORDS.items()]
ISO_TIME = re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:?\d\d(:?\d\d)?Z")
CODE = re.compile(r"```.*?```|``.*?``|`[^`\n]*`|\]\([^)\s]*\)|<[^<>\n]*>|https?://\S+", re.DOTALL)


@dataclass(frozen=True)
class Text:
    """One text that is read by a person."""

    line: int
    value: str
    prose: bool = False
    """Markdown: headings and times are checked, too."""


@dataclass(frozen=True)
class Hit:
    """One word that should be another."""

    path: Path
    place: str
    word: str
    sentence: str
    better: str

    def __str__(self) -> str:
        return f"{self.path}:{self.place}: {self.word!r} -> {self.better}   | {self.sentence}"


def blank(match: re.Match[str]) -> str:
    """A piece of code without its characters, so that lines are still counted right."""
    return re.sub(r"[^\n]", "·", match[0])


def of_markdown(source: str) -> Iterator[Text]:
    """The lines of Markdown, without code and addresses; a hard-wrapped sentence stays one text."""
    plain = CODE.sub(blank, source)
    for paragraph in re.finditer(r"(?:[^\n]+\n?)+", plain):
        line = plain.count("\n", 0, paragraph.start()) + 1
        yield Text(line, paragraph[0], prose=True)


def docstring_owners(tree: ast.AST) -> Iterator[tuple[ast.expr, bool]]:
    """Each docstring in a module, and whether people outside of it read it."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            name = getattr(node, "name", None) or ""
            private = name.startswith("_") and not name.startswith("__")
            for statement in body:
                if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant | ast.JoinedStr):
                    yield statement.value, not private


def rendered(node: ast.expr) -> str:
    """The text of a literal, with an ellipsis for each value that is put in."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(rendered(part) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return ""


def of_python(source: str) -> Iterator[Text]:
    """The texts of Python code that a person may read."""
    tree = ast.parse(source)
    docstrings = {id(node): public for node, public in docstring_owners(tree)}
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    nested = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for value in node.values
        if isinstance(value, ast.FormattedValue)
        for part in ast.walk(value)
    }
    keys = {id(key) for node in ast.walk(tree) if isinstance(node, ast.Dict) for key in node.keys if key}
    lines = source.splitlines()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant | ast.JoinedStr) or id(node) in keys:
            continue
        if isinstance(node, ast.Constant) and id(node) in inside and id(node) not in nested:
            continue
        text = CODE.sub(blank, rendered(node))
        if not text or not docstrings.get(id(node), True):
            continue
        exempt = any(line.rstrip().endswith(EXEMPT) for line in lines[node.lineno - 1 : node.end_lineno])
        if not exempt and not ONE_WORD.fullmatch(text):
            yield Text(node.lineno, text)


def comments(source: str) -> Iterator[Text]:
    """The comments of Python code: read by operators in notebooks only."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield Text(token.start[0], CODE.sub(blank, token.string))


def of_notebook(source: str) -> Iterator[tuple[int, Text]]:
    """The texts of each cell, with the cell's number."""
    for number, cell in enumerate(json.loads(source)["cells"], start=1):
        body = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield from ((number, text) for text in of_markdown(body))
        elif cell["cell_type"] == "code":
            code = "\n".join(re.sub(r"^(\s*)[%!].*", r"\1pass", line) for line in body.split("\n"))
            yield from ((number, text) for text in of_python(code))
            yield from ((number, text) for text in comments(code))


def of_yaml(source: str) -> Iterator[Text]:
    """Comments and descriptions; everything else in a file of ours is data."""
    for number, line in enumerate(source.splitlines(), start=1):
        comment = re.search(r"(?:^|\s)#\s.*", line)
        description = re.match(r"\s*-?\s*(?:description|Description|name|AlarmDescription):\s*(.*\s.*)", line)
        for found in (comment[0] if comment else "", description[1] if description else ""):
            if found:
                yield Text(number, CODE.sub(blank, found))


def hits_in(text: Text) -> Iterator[tuple[int, str, str, str]]:
    """Line, word, sentence and what to write instead, for each banned word of a text."""
    found = [(match, better) for pattern, better in PATTERNS for match in pattern.finditer(text.value)]
    if text.prose:
        found += [(match, "02:58 UTC") for match in ISO_TIME.finditer(text.value)]
        found += [(match, "a noun phrase") for match in re.finditer(r"^#+ [^\n]*\?$", text.value, re.MULTILINE)]
    for match, better in found:
        start, end = max(0, match.start() - 40), match.end() + 40
        sentence = " ".join(text.value[start:end].split())
        yield text.line + text.value.count("\n", 0, match.start()), match[0], sentence, better


def scan(path: Path) -> Iterator[Hit]:
    """Each banned word in one file."""
    source = path.read_text("utf-8")
    if path.suffix == ".ipynb":
        for cell, text in of_notebook(source):
            for line, word, sentence, better in hits_in(text):
                yield Hit(path, f"cell {cell} line {line}", word, sentence, better)
        return
    readers = {".md": of_markdown, ".py": of_python}
    for text in readers.get(path.suffix, of_yaml)(source):
        for line, word, sentence, better in hits_in(text):
            yield Hit(path, str(line), word, sentence, better)


def files(paths: list[Path]) -> Iterator[Path]:
    """Every file that is read by people, under each path."""
    for path in paths:
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            hidden = any(part.startswith(".ipynb") or part in {"_build", "__pycache__"} for part in file.parts)
            hidden |= str(file.resolve()).startswith(GENERATED)
            if file.is_file() and not hidden and (file.suffix in READABLE or file.name == "Makefile"):
                yield file


def main(arguments: list[str]) -> int:
    """1 if a file under ``arguments`` has a word to replace, each with its place; else 0."""
    found = [hit for path in files([Path(each) for each in arguments]) for hit in scan(path)]
    for hit in found:
        print(hit)
    print(f"{len(found)} words to replace", file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
