"""Where archived runs are stored: a folder of this machine, or S3.

It chains each manifest to the newest one, so that of two runs that end at the same moment both are kept:
under a lock in a folder, by conditional writes in S3. It has no knowledge of what a run is.

In S3 each link of the chain is an object of its own beside the runs (``chain/00000041.json``), written only if it
did not exist. Folder and S3 keep the same ``index.json``: one manifest a line, oldest first, and the newest's hash.
"""

import fcntl
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Protocol, TextIO

from buddy_ops.aws.session import Target
from buddy_ops.core.documents import parse_json
from buddy_ops.core.errors import AccessDenied, AwsFailed, BuddyError, Conflict, NotFound
from buddy_ops.core.files import delete_parts_of, is_part, write_atomically
from buddy_ops.core.journal import is_locked
from buddy_ops.runs import pages as pages_

MANIFEST, INDEX, PAGE, LINK = "manifest.json", "index.json", "index.html", "chain/{:08d}.json"
JOURNAL = "journal.jsonl"
"""The file that a run locks while it is in progress."""

SIGNATURE = "signature.json"
"""The signature of a run's manifest, beside it. No manifest names it: it is made of the manifest."""

Sign = Callable[[bytes], bytes]
"""The content of ``signature.json`` for a manifest."""

WRITTEN = (INDEX, PAGE, MANIFEST, SIGNATURE, "notebook.ipynb", "report.html", JOURNAL)
"""The files of an archive that are replaced as a whole: a kill may leave what was half written."""

LOCK = ".lock"
"""One process at a time adds to a folder's chain; the file names the run that is being added."""

# For example '2026-11-30T2150Z-strategies-canary-prod-3f2a9c1e'; '.' and '..' are the folder itself and the one above.
NAME = re.compile(r"(?!\.{1,2}$)[\w.:-]{1,200}", re.ASCII)
"""What a run's folder and a file in it can be called; nothing outside the archive is named so."""

# Fixed bytes around the rows: a row is appended by cutting off the end, whatever the length of the rest.
HEAD = b'{"v":1,"runs":[\n'
TAIL = b'\n],"newest":"%s"}\n'
TAIL_BYTES = len(TAIL % (b"0" * 64))
MALFORMED = (ValueError, RecursionError, AttributeError, KeyError, TypeError)
"""What reading members of JSON raises that is not as we write it."""

TRIES = 20
"""How often a conditional write is tried against others who write at the same moment."""


def digest(content: bytes) -> str:
    """SHA-256, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def newest_digest(index: bytes | None) -> str:
    """The newest manifest's hash, from an index's end; '' where nothing is archived."""
    return (index or b"")[-TAIL_BYTES:].decode(errors="replace").partition('"newest":"')[2][:64]


def chain_entry(facts: Mapping[str, object], previous: str) -> bytes:
    """A manifest's bytes."""
    return (json.dumps({**facts, "previous": previous}, indent=1, ensure_ascii=False) + "\n").encode()


def signed_entry(facts: Mapping[str, object], previous: str, sign: Sign | None) -> tuple[bytes, bytes | None]:
    """A manifest's bytes and its signature file. A manifest that could not be signed says why, and has none."""
    manifest = chain_entry(facts, previous)
    if sign is None:
        return manifest, None
    try:
        return manifest, sign(manifest)
    except BuddyError as error:
        why = error.what
    except Exception as error:  # the run is archived, whatever fails here
        why = f"{type(error).__name__}: {error}"
    return chain_entry({**facts, "unsigned": why}, previous), None


def index_line(manifest: bytes) -> bytes:
    """A manifest as a line of the index, with its own hash."""
    # First, so that a row can be found by how it begins (``_end_of_rows``).
    facts = {"sha256": digest(manifest), **parse_json(manifest)}
    return json.dumps(facts, separators=(",", ":"), ensure_ascii=False).encode()


def index_of(manifests: list[bytes]) -> bytes:
    """The index of all manifests, oldest first."""
    return HEAD + b",\n".join(map(index_line, manifests)) + TAIL % _newest(manifests).encode()


def _newest(manifests: list[bytes]) -> str:
    """The hash of the last of these, which the next one follows; '' before the first."""
    if not manifests:
        return ""
    return digest(manifests[-1])


def page_of(manifests: list[bytes]) -> bytes:
    """The page of all manifests."""
    return (
        pages_.index_head() + "".join(pages_.index_row(parse_json(index_line(each))) for each in manifests)
    ).encode()


def is_page_of(page: bytes | None, manifests: list[bytes]) -> bool:
    """Whether it is the page of all manifests. Above its rows, it may be as an earlier release wrote it."""
    expected = page_of(manifests)
    if page is None or page == expected:
        return page is not None
    # Only a head that one of our releases wrote: a script could have been put into any other.
    rows = expected[len(pages_.index_head().encode()) :]
    return page.endswith(rows) and digest(page[: len(page) - len(rows)]) in pages_.FORMER_HEADS


def appended_index(index: bytes | None, manifest: bytes) -> bytes:
    """An index with one more line. Nothing of what it holds is read, however long it is."""
    # Behind an index without rows comes its first one, which no comma precedes.
    if not index or index[:-TAIL_BYTES] == HEAD[:-1]:
        return index_of([manifest])
    return index[: _end_of_rows(index)] + b",\n" + index_line(manifest) + TAIL % digest(manifest).encode()


def _end_of_rows(index: bytes) -> int:
    """Where the last line of an index ends, also where somebody changed what follows it."""
    end = len(index) - TAIL_BYTES
    row = index.rfind(b'\n{"sha256"')
    if row < 0 or index[end:].startswith(TAIL.partition(b"%s")[0]):
        return end
    end = index.find(b"\n", row + 1)
    if end < 0:
        return len(index)
    return end


def read_manifest(store: "RunStore", folder: str) -> bytes | None:
    """The manifest in a run's folder. The name may be from a forged file: it must not lead out of the archive."""
    if not NAME.fullmatch(folder):
        return None
    return store.read(f"{folder}/{MANIFEST}")


class RunStore(Protocol):
    """What a folder and S3 have in common."""

    where: str
    chain_is_elsewhere: bool
    """Whether the chain is more than the index: then runs that the index lacks can be added to it."""

    def read(self, name: str) -> bytes | None:
        """A file's content; None where there is none."""

    def folders(self) -> dict[str, set[str]]:
        """The names of the files in each run's folder."""

    def strangers(self) -> list[str]:
        """What no run leaves, in words: links, hidden names, folders within a run's folder."""

    def is_in_progress(self, folder: str) -> bool:
        """Whether a run without a manifest may still be written to."""

    def half_added(self) -> bytes | None:
        """The manifest of a run that follows the newest one and has no line in the index yet."""

    def add(self, source: Path, facts: Mapping[str, object], sign: Sign | None = None) -> bytes:
        """Chain a run, whose files are in the folder ``source``, and sign it; its manifest."""

    def attach(self, folder: str, signature: bytes) -> None:
        """Write the signature of a run that has none."""

    def locked(self) -> AbstractContextManager[object]:
        """No other process adds a run meanwhile, where the store can have that."""

    def rebuild(self, manifests: list[bytes]) -> None:
        """Rebuild the index and its page."""

    def chained(self) -> dict[str, bytes]:
        """The manifests that the chain itself keeps, by their hash, whatever becomes of the runs' folders."""

    def examine(self, gone: Collection[str]) -> tuple[list[str], str]:
        """Problems that only this kind of store can find, and a sentence on what it cannot find.

        Args:
            gone: the folders that a pruning deletes.
        """


class LocalStore:
    """A folder of this machine, by default runs/."""

    chain_is_elsewhere = False

    def __init__(self, root: Path) -> None:
        self.root, self.where = root, str(root)

    def read(self, name: str) -> bytes | None:
        """A file's content; None where there is none, and for what is no file: a link leads out of the archive."""
        path = self.root / name
        if any((self.root / part).is_symlink() for part in Path(name).parents if part.name):
            return None
        with suppress(OSError), open(path, "rb", opener=_as_a_file) as file:
            # Asked of what is open: a name could be given to another file between a look and the reading.
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return file.read()
        return None

    def folders(self) -> dict[str, set[str]]:
        return {
            folder.name: {entry.name for entry in _entries(folder) if not entry.name.startswith(".")}
            for folder in _entries(self.root)
            if _is_folder(folder) and NAME.fullmatch(folder.name) and not folder.name.startswith(".")
        }

    def strangers(self) -> list[str]:
        found = []
        for entry in _entries(self.root):
            if entry.name in (INDEX, PAGE, LOCK):
                found += _oddities(entry, entry.name)
            elif not _is_folder(entry):
                found += _oddities(entry, entry.name) or [f"{entry.name}: does not belong here."]
            elif entry.name.startswith(".") or not NAME.fullmatch(entry.name):
                found.append(f"{entry.name!r}: a folder that no run is called.")
            else:
                found += self.oddities(entry.name)
        return found

    def oddities(self, folder: str) -> list[str]:
        """What of a run's folder no run leaves."""
        files = _entries(self.root / folder)
        return [problem for file in files for problem in _oddities(file, f"{folder}/{file.name}")]

    def is_in_progress(self, folder: str) -> bool:
        return is_locked(self.root / folder / JOURNAL)

    def add(self, source: Path, facts: Mapping[str, object], sign: Sign | None = None) -> bytes:
        with self.locked() as intent:
            manifest, signature = signed_entry(facts, self._newest_digest(), sign)
            # This process may be killed between the manifest and its line in the index: the next one then finds whose
            # line is missing.
            _note(intent, source.name)
            # The signature first: a manifest without it would read as one that was not signed.
            if signature is not None:
                write_atomically(source / SIGNATURE, signature, sync=True)
            write_atomically(source / MANIFEST, manifest, sync=True)
            self._append(manifest)
            _note(intent, "")
        return manifest

    def attach(self, folder: str, signature: bytes) -> None:
        delete_parts_of(self.root / folder / SIGNATURE)
        write_atomically(self.root / folder / SIGNATURE, signature, sync=True)

    def rebuild(self, manifests: list[bytes]) -> None:
        write_atomically(self.root / INDEX, index_of(manifests))
        write_atomically(self.root / PAGE, page_of(manifests))

    def chained(self) -> dict[str, bytes]:
        return {}

    def examine(self, gone: Collection[str]) -> tuple[list[str], str]:
        return [], (
            "A person with write access can rewrite the archive undetected. "
            "Only an announced hash (--newest) or an archive in S3 with Object Lock reveals it."
        )

    @contextmanager
    def locked(self) -> Iterator[TextIO]:
        """One at a time, of all processes of this machine; the lock's file names the run that is being added."""
        self.root.mkdir(parents=True, exist_ok=True)
        with _lock_file(self.root / LOCK) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Before anything is added: the next manifest must follow the one whose line is missing.
            self._finish(file)
            yield file

    def _newest_digest(self) -> str:
        """The hash that the next run follows: the newest manifest's, also where the index's end was changed.

        A chain that goes on from a hash which no manifest has would be broken for ever.
        """
        index = self.read(INDEX)
        newest = newest_digest(index)
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            rows = (index or b"")[: _end_of_rows(index or b"")]
            row = parse_json(rows.rpartition(b"\n")[2])
            manifest = read_manifest(self, row["folder"])
            if manifest is not None and digest(manifest) == row["sha256"]:
                return digest(manifest)
        return newest

    def half_added(self) -> bytes | None:
        """The manifest of a run that is being added, or whose process was killed before it wrote the index's line.

        The lock's file is no proof of it: only a manifest that follows the newest one, with its files, is taken.
        """
        folder = (self.read(LOCK) or b"").decode(errors="replace").strip()
        manifest = read_manifest(self, folder)
        if manifest is None:
            return None
        with suppress(*MALFORMED):
            facts = parse_json(manifest)
            files = {name: digest(self.read(f"{folder}/{name}") or b"") for name in facts["files"]}
            follows = facts["previous"] == self._newest_digest()
            if follows and facts["folder"] == folder and facts["files"] == files:
                return manifest
        return None

    def _finish(self, intent: TextIO) -> None:
        """Add the index line that a killed process did not write, and delete what it left half written."""
        manifest = self.half_added()
        if manifest is not None:
            self._append(manifest)
        for name in (INDEX, PAGE):
            delete_parts_of(self.root / name)  # only who holds the lock writes them
        _note(intent, "")

    def _append(self, manifest: bytes) -> None:
        # The index first: it decides what is archived, and the page is made of it again where they differ.
        write_atomically(self.root / INDEX, appended_index(self.read(INDEX), manifest))
        page, head = self.read(PAGE), pages_.index_head().encode()
        if page is None or not page.startswith(head):  # another release wrote it
            page = head
            with suppress(BuddyError):  # the index is damaged: the run is archived, and `runs verify` reports it
                page = page_of(_manifests(self, self.read(INDEX))[:-1])
        write_atomically(self.root / PAGE, page + pages_.index_row(parse_json(index_line(manifest))).encode())


class S3Store:
    """An S3 bucket, preferably with Object Lock and a default retention (infrastructure.yaml creates it)."""

    chain_is_elsewhere = True

    def __init__(self, target: Target, where: str) -> None:
        self.where = where.rstrip("/")
        self._target = target
        self._bucket, _, prefix = self.where.removeprefix("s3://").partition("/")
        self._prefix = ""
        if prefix:
            self._prefix = f"{prefix}/"

    def read(self, name: str) -> bytes | None:
        """AWS: s3:GetObject."""
        return self._read(name)[0]

    def folders(self) -> dict[str, set[str]]:
        """AWS: s3:ListObjectsV2 (the permission is s3:ListBucket)."""
        found: dict[str, set[str]] = {}
        for key in self._names():
            folder, slash, name = key.partition("/")
            if slash and folder != "chain":
                found.setdefault(folder, set()).add(name)
        return found

    def strangers(self) -> list[str]:
        """AWS: s3:ListObjectsV2 (the permission is s3:ListBucket)."""
        names = [name for name in self._names() if name not in (INDEX, PAGE)]
        links = sorted(name for name in names if name.startswith("chain/"))
        gaps = set(links) - {LINK.format(number) for number in range(len(links))}
        runs = [name.split("/") for name in names if not name.startswith("chain/")]
        odd = ["/".join(parts) for parts in runs if len(parts) != 2 or not all(map(_is_plain, parts))]
        return [f"{name!r}: does not belong here." for name in (*sorted(gaps), *odd)]

    def is_in_progress(self, folder: str) -> bool:
        """An upload that was cut off leaves a folder without a manifest, and is finished by the machine that ran it."""
        return True

    def half_added(self) -> bytes | None:
        """The chain has each run before its manifest is written."""
        return None

    def add(self, source: Path, facts: Mapping[str, object], sign: Sign | None = None) -> bytes:
        """Each file is uploaded once. AWS: s3:PutObject, writes."""
        files = facts["files"]
        assert isinstance(files, dict)
        # The manifest comes last: a run whose upload was cut off has none, and is uploaded again.
        for name in files:
            self._keep(f"{source.name}/{name}", (source / name).read_bytes())
        manifest, signature = self._chain(facts, sign)
        if signature is not None:
            self.attach(source.name, signature)
        self._keep(f"{source.name}/{MANIFEST}", manifest)
        self.rebuild([])
        return manifest

    def attach(self, folder: str, signature: bytes) -> None:
        """AWS: s3:PutObject, writes; another signature that is there already stays."""
        self._put(f"{folder}/{SIGNATURE}", signature, IfNoneMatch="*")

    def rebuild(self, manifests: list[bytes]) -> None:
        """The chain is authoritative here: runs that the index lacks are added."""
        for _ in range(TRIES):
            index, etag = self._read(INDEX)
            known = _manifests(self, index)
            new = known + list(self._links(len(known)))
            if new == known and index is not None and self.read(PAGE) == page_of(known):
                return
            # Another run may have written the index since it was read: then it is read and extended again.
            unchanged = {"IfMatch": etag}
            if not etag:
                unchanged = {"IfNoneMatch": "*"}
            if new == known or self._put(INDEX, index_of(new), **unchanged):
                # Not conditional: the next turn compares it with the index, and writes it again where it is older.
                self._put(PAGE, page_of(new))

    def chained(self) -> dict[str, bytes]:
        """AWS: s3:GetObject."""
        return {digest(link): link for link in self._links(0)}

    def delete(self, folder: str) -> int:
        """Delete every version of a run's files; how many S3 refused to delete, because they are locked.

        AWS: s3:ListObjectVersions, DeleteObject with a version (the permission is s3:DeleteObjectVersion), writes.

        Raises:
            AwsFailed: also where the caller may not delete, whose answer is the same as for a lock: see ``_is_locked``.
        """
        client = self._target.client("s3")
        locked = 0
        pages = client.get_paginator("list_object_versions").paginate(
            Bucket=self._bucket, Prefix=f"{self._prefix}{folder}/"
        )
        found = [each for page in pages for each in (*page.get("Versions", ()), *page.get("DeleteMarkers", ()))]
        # The manifest goes last: until then the folder shows what it is.
        for version in sorted(found, key=lambda each: each["Key"].endswith(f"/{MANIFEST}")):
            try:
                client.delete_object(Bucket=self._bucket, Key=version["Key"], VersionId=version["VersionId"])
            except AccessDenied:
                if not self._is_locked(version["Key"], version["VersionId"]):
                    raise
                locked += 1
        return locked

    def _is_locked(self, key: str, version: str) -> bool:
        """Whether Object Lock keeps a version. AWS: s3:HeadObject (s3:GetObjectVersion, s3:GetObjectRetention)."""
        with suppress(AwsFailed, KeyError):
            reply = self._target.client("s3").head_object(Bucket=self._bucket, Key=key, VersionId=version)
            return reply["ObjectLockRetainUntilDate"] > self._target.clock.now()
        return False

    def examine(self, gone: Collection[str]) -> tuple[list[str], str]:
        """AWS: s3:GetBucketObjectLockConfiguration, s3:ListObjectVersions; reads only."""
        versions: dict[str, int] = {}
        pages = self._target.client("s3").get_paginator("list_object_versions")
        for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix):
            for each in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                name = each["Key"].removeprefix(self._prefix)
                if name not in (INDEX, PAGE) and name.partition("/")[0] not in gone:
                    versions[name] = versions.get(name, 0) + 1
        # Index and page change with every run; all other objects have one version for ever.
        problems = [f"{name} was written or deleted after the run." for name, count in versions.items() if count > 1]
        return problems, self._lock_in_words()

    def locked(self) -> AbstractContextManager[None]:
        """Conditional writes take the place of a lock."""
        return nullcontext()

    def _names(self) -> Iterator[str]:
        pages = self._target.client("s3").get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix):
            for listed in page.get("Contents", ()):
                name = listed["Key"].removeprefix(self._prefix)
                if name:  # S3's console writes an empty object for a folder that it creates
                    yield name

    def _lock_in_words(self) -> str:
        try:
            reply = self._target.client("s3").get_object_lock_configuration(Bucket=self._bucket)
            kept = reply["ObjectLockConfiguration"]["Rule"]["DefaultRetention"]
        except (AwsFailed, KeyError):
            return (
                f"{self._bucket} has no Object Lock with a default retention: a person with write access can rewrite "
                "the archive undetected. Only an announced hash (--newest) reveals it."
            )
        period = ", ".join(f"{kept[unit]} {unit.lower()}" for unit in ("Days", "Years") if kept.get(unit))
        return (
            f"Object Lock ({kept['Mode'].lower()}, {period}) keeps what was written from being changed or deleted; "
            "in governance mode a role with the permission to bypass it can do so. Runs older than that, and runs "
            "that were not uploaded, are not protected."
        )

    def _chain(self, facts: Mapping[str, object], sign: Sign | None = None) -> tuple[bytes, bytes | None]:
        """Write the next link; where others are faster, the one after theirs. The link, and its signature file."""
        # What the index has need not be read link by link: only what was written since.
        links = _manifests(self, self.read(INDEX))
        for _ in range(TRIES):
            links += self._links(len(links))
            # An upload that was cut off after its link goes on with that link.
            for each in links:
                if _row(self, each)["folder"] == facts["folder"]:
                    return each, self._missing_signature(each, sign)
            # Signed again at each try: the manifest has the hash of the one before it.
            manifest, signature = signed_entry(facts, _newest(links), sign)
            if self._put(LINK.format(len(links)), manifest, IfNoneMatch="*"):
                return manifest, signature
        raise self._conflict(LINK.format(len(links)))

    def _missing_signature(self, link: bytes, sign: Sign | None) -> bytes | None:
        """The signature file of a link whose upload was cut off before it. Where it fails, ``verify`` says so."""
        facts = _row(self, link)
        if sign is None or facts.get("unsigned") or self.read(f"{facts['folder']}/{SIGNATURE}") is not None:
            return None
        with suppress(BuddyError):
            return sign(link)
        return None

    def _links(self, start: int) -> Iterator[bytes]:
        while (manifest := self.read(LINK.format(start))) is not None:
            yield manifest
            start += 1

    def _keep(self, name: str, content: bytes) -> None:
        """Write it once. What stands there already must be the same: an answer was lost, or an upload broke off."""
        if not self._put(name, content, IfNoneMatch="*") and self.read(name) != content:
            raise self._conflict(name)

    def _conflict(self, name: str) -> BuddyError:
        return BuddyError(
            "archive-conflict",
            f"{self.where}/{name} exists already, with other content.",
            now="The run is kept in this machine's runs/ folder; nothing there was overwritten.",
            next=f"`buddy-ops runs verify --archive {self.where}` shows its content.",
        )

    def _put(self, name: str, content: bytes, **condition: str) -> bool:
        """Whether it was written: False where the condition does not hold."""
        texts = {".html": "text/html; charset=utf-8", ".md": "text/markdown; charset=utf-8"}
        kind = texts.get(Path(name).suffix, "application/json")
        # A bucket with Object Lock takes no upload without a checksum, and a person's settings may leave it out.
        where: Any = {
            "Bucket": self._bucket,
            "Key": self._prefix + name,
            "ContentType": kind,
            "ChecksumAlgorithm": "SHA256",
        }
        try:
            self._target.client("s3").put_object(Body=content, **{**where, **condition})
        except Conflict:
            return False
        return True

    def _read(self, name: str) -> tuple[bytes | None, str]:
        try:
            reply = self._target.client("s3").get_object(Bucket=self._bucket, Key=self._prefix + name)
        except NotFound:
            return None, ""
        return reply["Body"].read(), str(reply["ETag"])


def _lock_file(path: Path) -> TextIO:
    """The lock's file. A link in its place leads to a file that is not ours: it is deleted, and never followed."""
    if path.is_symlink():
        path.unlink(missing_ok=True)
    if path.exists() and not path.is_file():
        raise BuddyError(
            "archive-damaged",
            f"{path} is not a file, so no process can lock the archive.",
            now="Nothing was archived or changed.",
            next=f"Move {path.name} away. Then `buddy-ops runs index` archives what is missing.",
        )
    return os.fdopen(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666), "a+", encoding="utf-8")


def _as_a_file(path: str, flags: int) -> int:
    """Open without following a link, and without waiting: a named pipe would block for ever."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _entries(folder: Path | os.DirEntry[str]) -> list[os.DirEntry[str]]:
    """What a folder has, by name; nothing where it cannot be read."""
    with suppress(OSError), os.scandir(folder) as found:
        return sorted(found, key=lambda entry: entry.name)
    return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False)


def _is_plain(name: str) -> bool:
    return NAME.fullmatch(name) is not None and not name.startswith(".")


def _oddities(entry: os.DirEntry[str], name: str) -> list[str]:
    """What is wrong with a file of the archive, whatever its content."""
    if entry.is_file(follow_symlinks=False) and any(is_part(entry.name, of) for of in WRITTEN):
        return [f"{name}: left by a process that was killed, half written. Delete it."]
    found = []
    if entry.is_symlink():
        found.append(f"{name}: is a symbolic link.")
    elif not entry.is_file():
        found.append(f"{name}: is no file.")
    elif entry.stat(follow_symlinks=False).st_nlink > 1:
        found.append(f"{name}: is a hard link: a file elsewhere has the same content, and can change it.")
    if entry.name == LOCK or _is_plain(entry.name):
        return found
    if entry.name.startswith("."):
        return [*found, f"{name!r}: a hidden file."]
    return [*found, f"{name!r}: no run names a file so."]


def _manifests(store: RunStore, index: bytes | None) -> list[bytes]:
    """The manifests that an index names, as they were written. Raises BuddyError ``archive-damaged``."""
    found = []
    for row in (index or b"").splitlines():
        if row.startswith(b'{"sha256"'):
            facts = _row(store, row.rstrip(b","))
            facts.pop("sha256")
            found.append(chain_entry(facts, facts["previous"]))
    return found


def _row(store: RunStore, content: bytes) -> dict[str, Any]:
    """A line of the index, or a link of the chain. Raises BuddyError ``archive-damaged``."""
    with suppress(ValueError):
        facts = parse_json(content)
        if isinstance(facts, dict) and {"folder", "previous"} <= set(facts):
            return facts
    raise BuddyError(
        "archive-damaged",
        f"{store.where}: the index or the chain cannot be read.",
        next="`buddy-ops runs verify` lists all problems.",
    )


def _note(intent: TextIO, folder: str) -> None:
    """Write into the lock's file which run is being added; '' once it is."""
    intent.seek(0)
    intent.truncate()
    intent.write(folder)
    intent.flush()
