"""What a migration is. A project's own are in its parameters/migrations.py, as code that the team edits.

``steps`` carries a migration out; ``schema`` compares it with the versions of the function.
"""

import re
import runpy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from buddy_ops.core.errors import InvalidInput
from buddy_ops.core.places import project_root

Item = Mapping[str, Mapping[str, Any]]
Attributes = dict[str, dict[str, Any]]
Convert = Callable[[Item], Attributes]

FIRST = 1
"""The schema of a table that was never migrated."""

NEWEST = 10**6
"""Above every schema's number."""

FILE = "parameters/migrations.py"
"""Where a project defines its migrations; without this file it has none."""


# What a migration is


@dataclass(frozen=True)
class Migration:
    """One change of the schema of one table, by expand and contract.

    Attributes:
        table: the function's environment variable that names the table, as ``variable`` of ``tables`` in parameters/.
        to: the schema that it leads to.
        old: attributes that only the old schema has; ``new``: those that only the new one has.
        forward: the new attributes of an item, from its old ones. Raises ValueError for what it cannot convert.
        backward: the old ones, from the new.
    """

    name: str
    table: str
    to: int
    old: tuple[str, ...]
    new: tuple[str, ...]
    forward: Convert
    backward: Convert

    @property
    def source(self) -> int:
        """The schema that the table has before."""
        # The schemas in between are other tables': all tables share one sequence.
        earlier = (other.to for other in read_migrations() if other.table == self.table and other.to < self.to)
        return max(earlier, default=FIRST)

    def harmonised(self, item: Item, truth: Literal["old", "new"]) -> Attributes:
        """The item in both schemas; ``truth`` wins where they differ.

        Raises:
            ValueError: it is in neither schema, cannot be converted, or cannot be converted back.
        """
        # After a backfill an item has both, and ``truth`` decides.
        # One that has only one of them is converted from that.
        has_old = all(name in item for name in self.old)
        has_new = all(name in item for name in self.new)
        if has_old and (truth == "old" or not has_new):
            return self._converted(item, self.old, convert=self.forward, revert=self.backward)
        return self._converted(item, self.new, convert=self.backward, revert=self.forward)

    def _converted(self, item: Item, names: tuple[str, ...], *, convert: Convert, revert: Convert) -> Attributes:
        # There and back again: an item that cannot be restored is never changed.
        try:
            made = convert(item)
            lossless = revert({**item, **made}) == {name: item[name] for name in names}
        except (KeyError, TypeError):
            old = ", ".join(self.old)
            raise ValueError(f"it has neither {old} nor {', '.join(self.new)} in a valid form") from None
        if not lossless:
            raise ValueError(f"its {', '.join(names)} cannot be converted without loss")
        replaced = {*self.old, *self.new}.difference(names)
        return {name: dict(value) for name, value in item.items() if name not in replaced} | made

    def contracted(self, item: Item) -> Attributes:
        """The item in the new schema alone.

        Raises:
            ValueError: as ``harmonised``; or its old attributes differ, so something still writes them.
        """
        both = self.harmonised(item, "new")
        if any(item[name] != both[name] for name in self.old if name in item):
            raise ValueError(f"its {', '.join(self.old)} and its {', '.join(self.new)} differ")
        return {name: value for name, value in both.items() if name not in self.old}

    def reverted(self, item: Item) -> Attributes:
        """The item in the old schema alone. Raises ValueError as ``harmonised``."""
        both = self.harmonised(item, "old")
        return {name: value for name, value in both.items() if name not in self.new}


# What a version of the function declares


@dataclass(frozen=True)
class SchemaRange:
    """The schemas that a version of the function can read and write, both ends included."""

    low: int
    high: int

    def __contains__(self, schema: int) -> bool:
        return self.low <= schema <= self.high

    def __str__(self) -> str:
        if self.low == self.high:
            return str(self.low)
        return f"{self.low}-{self.high}"


def parse_range(text: str | None) -> SchemaRange | None:
    """A declared range, '1' or '1-2'; None for any other text: then it is unknown."""
    # Six digits at most, so that every number is below ``NEWEST``.
    match = re.fullmatch(r"([1-9]\d{0,5})(?:-([1-9]\d{0,5}))?", (text or "").strip())
    if match is None:
        return None
    declared = SchemaRange(int(match[1]), int(match[2] or match[1]))
    if declared.low > declared.high:
        return None
    return declared


def validity(table: str, schema: int) -> SchemaRange:
    """The schemas for which a table's items are right: until the next migration of this table."""
    later = (migration.to for migration in read_migrations() if migration.table == table and migration.to > schema)
    return SchemaRange(schema, min(later, default=NEWEST) - 1)


# The project's migrations


def read_migrations() -> tuple[Migration, ...]:
    """``MIGRATIONS`` of the project's file, in the order of their schemas; none where there is no such file.

    Raises:
        InvalidInput: ``invalid-migrations``.
    """
    # The file's hash is part of the cache's key: a file that is corrected while a notebook is open is run again.
    found = fingerprint()
    if not found:
        return ()
    return _load(project_root() / FILE, found)


def fingerprint() -> str:
    """The SHA-256 of the project's file; '' where there is none. An approved plan covers it."""
    path = project_root() / FILE
    if not path.is_file():
        return ""
    return sha256(path.read_bytes()).hexdigest()


@lru_cache(maxsize=4)
def _load(path: Path, _fingerprint: str) -> tuple[Migration, ...]:
    """Run the project's file once, until it is changed."""
    try:
        # Not an import: the project's file is in no package, and Python would keep what it read first.
        found = runpy.run_path(str(path)).get("MIGRATIONS")
    # The project's code may raise anything, and call sys.exit().
    except (Exception, SystemExit) as error:
        raise _invalid(f"it ends with {type(error).__name__}: {error}") from error
    if not isinstance(found, (list, tuple)) or not all(isinstance(each, Migration) for each in found):
        raise _invalid("it defines no MIGRATIONS, a tuple of Migration")
    if len({each.name for each in found}) < len(found):
        raise _invalid("two migrations have one name")
    # One sequence for all tables: a version declares one range, which holds for each of them.
    if [each.to for each in found] != list(range(FIRST + 1, FIRST + 1 + len(found))):
        raise _invalid("the schemas that they lead to are not 2, 3 and so on, in this sequence")
    for each in found:
        # Such an attribute would be overwritten by ``forward``, and its old value could not be restored.
        if set(each.old) & set(each.new):
            raise _invalid(f"{each.name} has an attribute in both schemas")
    return tuple(found)


def _invalid(problem: str) -> InvalidInput:
    return InvalidInput(
        "invalid-migrations",
        f"{FILE} cannot be used: {problem}.",
        next=f"Correct {FILE}, and run this again. Rollbacks do not need it.",
    )
