"""Files that are written whole or not at all."""

import os
from pathlib import Path


def write_atomically(path: Path, content: bytes | str, *, sync: bool = False) -> None:
    """Replace a file's content in one step: after a crash, and for each reader, it is the old content or the new.

    Args:
        content: a text is written as UTF-8.
        sync: have the content on disk before the name points at it, so that it outlasts a power failure.
    """
    part = part_of(path)
    with part.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        if sync:
            os.fsync(file.fileno())
    part.replace(path)


def part_of(path: Path) -> Path:
    """The file that holds new content before it replaces the old; a kill in between leaves it."""
    return path.with_name(f".{path.name}.part")
