"""The words that an operator reads are plain, and the scan for those that are not finds what it should."""

import re
from pathlib import Path

import pytest

from tests.system import words

CLEAN = [
    ".github",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Makefile",
    "README.md",
    "buddy_ops/checks",
    "buddy_ops_metrics",
    "buddy_ops/fleet",
    "buddy_ops/incidents",
    "docs",
    "infrastructure.yaml",
    "parameters",
    "benchmarks/README.md",
    "buddy_ops/aws",
    "buddy_ops/cli",
    "buddy_ops/core",
    "buddy_ops/deployment",
    "buddy_ops/health",
    "buddy_ops/migrations",
    "buddy_ops/notebook",
    "buddy_ops/runs",
    "notebooks",
    "sandbox/README.md",
    "sandbox/src/buddy_sandbox/scenarios",
]
"""The areas without a word to replace: all that an operator can read."""


@pytest.mark.parametrize("area", CLEAN)
def test_no_operator_reads_a_word_to_replace(area: str) -> None:
    """Every text in the area is free of the words that operators should not have to read."""
    found = [hit for path in words.files([words.ROOT / area]) for hit in words.scan(path)]
    assert not found, "\n".join(map(str, found))


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ('raise Refused("x", "The version burns.")', ["burns"]),
        ('text = f"{version} was taken {how} back"', ["taken … back"]),
        ('ending = "proved"', []),
        ('record = {"taken back": 1}', []),
        ('def public():\n    """Nobody reads this."""', ["Nobody"]),
        ('def _private():\n    """Nobody reads this."""', []),
        ('text = "The key `nobody_knows` is data."', []),
        ('old = "it was taken back"  # words: data', []),
        ('text = "a dead-letter queue, in this order, as well"', []),
    ],
)
def test_the_scan_of_code_finds_prose_and_leaves_data(code: str, wanted: list[str], tmp_path: Path) -> None:
    """Sentences are scanned, and identifiers, one-word values, keys and private docstrings are not."""
    path = tmp_path / "module.py"
    path.write_text(code)
    assert [hit.word for hit in words.scan(path)] == wanted


def test_the_scan_of_markdown_names_the_line(tmp_path: Path) -> None:
    """Code and addresses are not prose; questions as headings and ISO times are hits."""
    path = tmp_path / "page.md"
    path.write_text("# What now?\n\nSee [this](burns.md) at\n2026-11-29T02:58:00Z: it `burns`.\n\nIt\nburns.\n")
    assert [(hit.place, hit.word) for hit in words.scan(path)] == [
        ("1", "# What now?"),
        ("4", "2026-11-29T02:58:00Z"),
        ("7", "burns"),
    ]


EXAMPLE = re.compile(r"alexa|reminder|medication|safety|buddy", re.IGNORECASE)
OWN_NAMES = re.compile(r"buddy[-_ ]?ops|BuddyError|buddy[-_]sandbox", re.IGNORECASE)
KIND = {
    "checks/_probes.py", "checks/function_facts.py", "cli/main.py", "cli/sandbox_commands.py", "core/kinds.py",
    "core/settings.py", "core/settings.schema.json", "deployment/smoke_tests.py",
}  # fmt: skip
"""Where the kind 'alexa' is defined, tested or offered."""

TEXTS = {".py", ".js", ".j2", ".json", ".html", ".css", ".md", ".yaml"}
FORMER = {"aws/_parameter_names.py"}
"""Where names of an earlier release are read."""


def test_the_library_is_about_any_function() -> None:
    """What belongs to the example is in its parameters: no file of the library speaks of it."""
    library = Path(__file__).parents[2] / "buddy_ops"
    texts = (path for path in library.rglob("*") if path.suffix in TEXTS and "__pycache__" not in path.parts)
    found = []
    for path in texts:
        name = path.relative_to(library).as_posix()
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            words = {word.lower() for word in EXAMPLE.findall(OWN_NAMES.sub("", line))}
            if name in KIND:
                words -= {"alexa"}
            if words and name not in FORMER:
                found.append(f"{name}:{number}: {line.strip()}")
    assert found == []
