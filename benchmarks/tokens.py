"""How many tokens of a rule set that ours were not written from are cut: those that gitleaks' own rules describe.

Neither gitleaks' rules nor what makes tokens of them is a part of this project::

    python -m venv /tmp/tokens && /tmp/tokens/bin/pip install rstr
    curl -O https://raw.githubusercontent.com/gitleaks/gitleaks/master/config/gitleaks.toml
    /tmp/tokens/bin/python benchmarks/tokens.py make gitleaks.toml tokens.json
    python -m benchmarks.tokens check tokens.json
"""

import importlib
import json
import random
import re
import sys
import tomllib
from collections import Counter
from pathlib import Path

TOKENS = 3
"""Tokens of each rule."""

AS_WRITTEN = (
    (r"[\w.-]{0,50}?", ""),
    (r"[ \t\w.-]{0,20}", ""),
    (r"""[\s'"]{0,3}""", '["]?'),
    (r"(?:=|>|:{1,3}=|\|\||:|=>|\?=|,)", "(?:=| = |: |:| => |:=)"),
    (r"""[`'"\s=]{0,5}""", '["]?'),
    (r"\s*", " ?"),
    (r"\s+", " "),
    (r"(?:.*?|.*?(?:[\r\n]{1,2}.*?){1,5})", r" https://api\.example\.com"),
    (r"(?:.*|.*(?:[\r\n]{1,2}.*){1,5})", " -s"),
    ("hooks.slack.com", r"hooks\.slack\.com"),
    (r"[ \t\n\r]", " "),
    (r"[ \t]", " "),
)
"""What a rule allows between a name and a value, and what people write there."""


def make(rules: Path, tokens: Path) -> None:
    """Write tokens that the rules describe, each with the text around it."""
    rstr = importlib.import_module("rstr")
    importlib.import_module("rstr.xeger").STAR_PLUS_LIMIT = 400  # some tokens are longer than it makes by default
    made = []
    for rule in tomllib.loads(rules.read_text("utf-8"))["rules"]:
        if "regex" not in rule:
            continue
        pattern = in_python(rule["regex"])
        written = pattern
        for general, usual in AS_WRITTEN:
            written = written.replace(general, usual)
        generator = rstr.Rstr(random.Random(rule["id"]))
        texts = [generator.xeger(written) for _ in range(40)]
        found = [(text, secret_of(re.search(pattern, text), rule.get("secretGroup"))) for text in texts]
        made += [(rule["id"], text, secret) for text, secret in found if len(secret) >= 8][:TOKENS]
    tokens.write_text(json.dumps(made, indent=0), "utf-8")
    print(f"{len(made)} tokens of {len({rule for rule, _, _ in made})} rules")


def in_python(pattern: str) -> str:
    """A pattern of Go as one of Python. Where case does not matter, the rule's own is taken."""
    for theirs, ours in (("[:alnum:]", "A-Za-z0-9"), (r"\z", r"\Z"), (r"\x60", "`"), ("(?s:.)", r"[\s\S]")):
        pattern = pattern.replace(theirs, ours)
    return re.sub(r"\(\?-?i:", "(?:", pattern.replace("(?i)", ""))


def secret_of(match: re.Match[str] | None, group: int | None) -> str:
    """What a rule calls the secret."""
    if match is None:
        return ""
    return str(match[group] if group else next(filter(None, match.groups()), match[0]))


def check(tokens: Path) -> None:
    """Say which tokens are left."""
    from buddy_ops.core.redaction import Redactor

    redactor = Redactor()
    made = json.loads(tokens.read_text("utf-8"))
    left = [(rule, text) for rule, text, secret in made if secret.strip('"') in redactor.redact(f"before {text} after")]
    by_rule = Counter(rule for rule, _ in left)
    print(f"{len(left)} of {len(made)} tokens are not cut, of {len(by_rule)} rules:")
    for rule, number in by_rule.items():
        print(f"  {number} of {rule}: {next(text for name, text in left if name == rule)[:100]!r}")


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        check(Path(sys.argv[2]))
