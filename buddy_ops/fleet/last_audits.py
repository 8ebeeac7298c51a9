"""The readiness of targets as their last archived audits had it. Asks nothing of AWS."""

from buddy_ops.core.errors import BuddyError
from buddy_ops.core.journal import read_journal
from buddy_ops.core.text import date_and_time, parse_utc
from buddy_ops.runs import archive
from buddy_ops.runs.manifest import ManifestEntry
from buddy_ops.runs.stores import JOURNAL, RunStore

OF_FLEETS = "fleet/audit"
OF_ONE = "review/readiness_audit"
NEWEST = 50
"""So many of the newest audits are read."""


def read_last_audits() -> dict[str, str]:
    """Result word and time of each target's last audit in runs/, by the target's name; empty where none is archived."""
    try:
        store = archive.open_store()
        entries = [entry for entry in archive.list_entries(store) if entry.runbook in (OF_FLEETS, OF_ONE)]
        found: dict[str, str] = {}
        # Oldest first, so that a newer audit replaces an older one of the same target.
        for entry in entries[-NEWEST:]:
            at = date_and_time(parse_utc(entry.ended))
            found |= {name: f"{word}, {at}" for name, word in _results(store, entry).items()}
        return found
    # A damaged archive has a command of its own. The status does without.
    except (BuddyError, OSError, ValueError):
        return {}


def _results(store: RunStore, entry: ManifestEntry) -> dict[str, str]:
    """The result word of each target of an archived audit."""
    if entry.runbook == OF_FLEETS:
        records = read_journal(store.read(f"{entry.folder}/{JOURNAL}") or b"")
        audited = [record["results"] for record in records if record["kind"] == "fleet-audited"]
        return {str(name): str(word) for results in audited for name, word in results.items()}
    word = "READY"
    # A single audit has no record of results: its manifest has the exit code, and the error's reference in its text.
    if entry.exit_code:
        word = "NOT READY" if "(not-ready)" in entry.trouble else "UNKNOWN"
    return {entry.environment: word}
