"""Whether archived runs are signed by the key that their environment's settings name.

A signature is made of the manifest, which has the hash of every file of the run and of the manifest before it. The key
that counts is in parameters/, never in the archive: a person who rewrites the archive cannot name another one.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from buddy_ops.aws import session, signing
from buddy_ops.core import project
from buddy_ops.core.errors import BuddyError, InvalidInput
from buddy_ops.core.extras import verify_extra_missing
from buddy_ops.core.settings import SignatureSettings
from buddy_ops.core.text import count
from buddy_ops.runs.manifest import ManifestEntry, json_object
from buddy_ops.runs.stores import SIGNATURE, Sign, digest

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

    from buddy_ops.aws.session import Target

LARGEST = 4096
"""Bytes of a signature file at most; ours have less than 500."""

Verify = Callable[[str, bytes, bytes], bool]
"""Whether a key (its ARN) made a signature of a manifest. Raises BuddyError where that is unknown."""


@dataclass(frozen=True)
class Signature:
    """What ``signature.json`` says: the manifest's hash, the ARN of the key, and its signature (DER)."""

    manifest: str
    key: str
    content: bytes

    def as_file(self) -> bytes:
        """The one form that a signature has as a file: a changed byte is never another form of the same."""
        facts = {
            "v": 1,
            "manifest": self.manifest,
            "key": self.key,
            "algorithm": signing.ALGORITHM,
            "signature": base64.b64encode(self.content).decode(),
        }
        return (json.dumps(facts, indent=1) + "\n").encode()


def read_signature(content: bytes) -> Signature:
    """A signature file. Raises ValueError."""
    if len(content) > LARGEST:
        raise ValueError("too large")
    facts = json_object(content)
    try:
        found = Signature(
            str(facts["manifest"]), str(facts["key"]), base64.b64decode(str(facts["signature"]), validate=True)
        )
    except (KeyError, binascii.Error):
        raise ValueError("no signature") from None
    # base64 has several texts for the same bytes, and JSON many layouts: any other one is a change.
    if found.as_file() != content:
        raise ValueError("not as it was written")
    return found


def signer(target: "Target") -> Sign | None:
    """Signs manifests with the key of a target's environment; None where its settings name no key.

    Its calls are not journaled: the journal is archived, and has its hash in the manifest.
    """
    rule = target.settings.archive.sign
    if rule is None:
        return None
    return partial(_sign, target.without_journal(), rule.key)


def signer_of(environment: str) -> Sign | None:
    """The same for an environment by its name; None for one without a file in parameters/, too."""
    if environment not in signing_rules():
        return None
    return signer(session.connect(environment, "runs", quiet=True))


def pruning_signer(plan: Sequence[ManifestEntry], environment: str = "") -> Sign | None:
    """Signs the record of a pruning: with the key of an environment whose runs it deletes, else of any that has one.

    Args:
        environment: whose key signs; empty: the first that fits.
    """
    rules = signing_rules()
    owners = [*filter(None, [environment]), *(entry.environment for entry in reversed(plan)), *rules]
    owner = next((name for name in owners if name in rules), None)
    if owner is None:
        return None
    return signer_of(owner)


def _sign(target: "Target", key: str, manifest: bytes) -> bytes:
    hashed = hashlib.sha256(manifest)
    arn, content = signing.sign_digest(target, key, hashed.digest())
    return Signature(hashed.hexdigest(), arn, content).as_file()


def signing_rules() -> dict[str, SignatureSettings]:
    """The environments whose runs are to be signed, and how.

    Raises:
        InvalidInput: ``invalid-settings``: which key is expected is unknown.
    """
    found = {}
    for environment in project.environments():
        rule = project.read_settings(environment)[0]["archive"]["sign"]
        if rule is not None:
            found[environment] = SignatureSettings.model_validate(rule)
    return found


@dataclass
class SignatureCheck:
    """Checks the signatures of an archive's runs, oldest first, and collects what is wrong with them.

    Attributes:
        rules: the environments whose runs must be signed.
        verify: for the environment of a run, or for any (''); None: nothing can be verified here.
        forged: signatures that are wrong.
        unsigned: runs that must be signed and are not.
        unknown: what could not be verified.
        valid: how many signatures are right.
    """

    rules: Mapping[str, SignatureSettings] = field(default_factory=dict)
    verify: Verify | None = None
    forged: list[str] = field(default_factory=list)
    unsigned: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    valid: int = 0
    _since_signed: set[str] = field(default_factory=set)
    _unreadable: dict[str, str] = field(default_factory=dict)
    _unverified: dict[str, int] = field(default_factory=dict)

    def check(self, entry: ManifestEntry, manifest: bytes, content: bytes | None) -> None:
        """Check a run, given its manifest's bytes and its signature file's."""
        if content is None:
            if self._is_required(entry):
                # A missing signature is no forgery: KMS may have been out of reach when the run ended.
                self.unsigned.append(f"{entry.folder}: {entry.unsigned or 'it has no signature.'}")
            return
        name = f"{entry.folder}/{SIGNATURE}"
        try:
            signature = read_signature(content)
        except ValueError:
            self.forged.append(f"{name}: cannot be read.")
            return
        if signature.manifest != digest(manifest):
            said = "the manifest was changed after it was signed, or the signature is of another run"
            self.forged.append(f"{name}: is of another manifest: {said}.")
            return
        # Who rewrites an archive can sign it with a key of their own: the signature itself would be right.
        keys = self._keys_for(entry)
        if keys and signature.key not in keys:
            self.forged.append(f"{name}: is of another key, {signature.key}. Expected: {' or '.join(sorted(keys))}.")
            return
        self._verify(entry, name, signature, manifest)

    def summary(self) -> str:
        """How many signatures were verified, for operators; '' where there is none."""
        if self.valid:
            return f"SIGNED: {count(self.valid, 'run')} of the environments' own keys."
        return ""

    def finish(self) -> None:
        """Say what could not be verified, once for each cause."""
        for why, number in self._unverified.items():
            self.unknown.append(f"{count(number, 'signature')} could not be verified: {why}")
        self._unverified.clear()

    def _verify(self, entry: ManifestEntry, name: str, signature: Signature, manifest: bytes) -> None:
        # One call for each key that the caller may not use, however many runs it signed.
        why = self._unreadable.get(signature.key, "")
        if self.verify is None:
            why = "no environment in parameters/ names a key (archive.sign). Give --public-key FILE."
        right = False
        if self.verify is not None and not why:
            try:
                right = self.verify(signature.key, manifest, signature.content)
            except BuddyError as error:
                why = self._unreadable[signature.key] = error.what
        if why:
            self._unverified[why] = self._unverified.get(why, 0) + 1
        elif right:
            self.valid += 1
            # From here on each run of this environment must be signed:
            # else the newest ones could be replaced by unsigned ones.
            self._since_signed.add(entry.environment)
        else:
            self.forged.append(f"{name}: the signature is wrong: {signature.key} did not sign this manifest.")

    def _is_required(self, entry: ManifestEntry) -> bool:
        """Whether a run must be signed: by its day, or because one before it in the chain is."""
        rules = [rule for name, rule in self.rules.items() if name == entry.environment]
        if entry.pruned_hashes:  # it excuses runs that are missing, so it must be signed wherever any run must be
            rules = list(self.rules.values())
        # ISO days compare as texts.
        by_day = any(rule.since is None or entry.ended[:10] >= rule.since.isoformat() for rule in rules)
        return by_day or (bool(rules) and entry.environment in self._since_signed)

    def _keys_for(self, entry: ManifestEntry) -> set[str]:
        own = self.rules.get(entry.environment)
        if own is not None and not entry.pruned_hashes:
            return {own.key}
        return {rule.key for rule in self.rules.values()}


def check_by_kms(environment: str = "") -> SignatureCheck:
    """A check that asks KMS, with the credentials of each key's environment. AWS: kms:Verify, reads only.

    Args:
        environment: whose credentials are used for every key; empty: those of the environment that names the key.
    """
    rules = signing_rules()
    targets: dict[str, Target] = {}

    def verify(key: str, manifest: bytes, content: bytes) -> bool:
        owner = environment or next(name for name, rule in rules.items() if rule.key == key)
        if owner not in targets:
            targets[owner] = session.connect(owner, "runs", quiet=True)
        return signing.verify_digest(targets[owner], key, hashlib.sha256(manifest).digest(), content)

    # No environment names a key: signatures that are there are then unknown, and not wrong.
    if not rules:
        return SignatureCheck(rules)
    return SignatureCheck(rules, verify)


def check_by_keys(paths: Sequence[str]) -> SignatureCheck:
    """A check without AWS, by public keys in files (PEM or DER).

    Raises:
        InvalidInput: ``extra-missing``, ``public-key-unusable``.
    """
    keys = dict(map(_read_public_key, paths))
    rules = signing_rules()
    expected = {rule.key: rule.public_key_sha256 for rule in rules.values() if rule.public_key_sha256}

    def verify(key: str, manifest: bytes, content: bytes) -> bool:
        wanted = expected.get(key)
        # Where the settings name no hash, any key that was given may be the one: the signature itself decides.
        usable = [public for sha256, public in keys.items() if wanted in (None, sha256)]
        if not usable:
            given = ", ".join(keys)
            raise InvalidInput(
                "public-key-unusable",
                f"no --public-key is that of {key}. Expected SHA-256: {wanted}. Given: {given}.",
                next="Give the file that archive.sign.public_key_sha256 names.",
            )
        return any(_is_of(public, manifest, content) for public in usable)

    return SignatureCheck(rules, verify)


def _read_public_key(path: str) -> tuple[str, "EllipticCurvePublicKey"]:
    """The SHA-256 of a public key (DER), and the key.

    Raises:
        InvalidInput: ``extra-missing``, ``public-key-unusable``.
    """
    try:
        # An extra of its own: only a check with --public-key needs it.
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ModuleNotFoundError:
        raise verify_extra_missing() from None
    with suppress(OSError, ValueError, UnsupportedAlgorithm):
        content = Path(path).read_bytes()
        load = serialization.load_der_public_key
        if content.lstrip().startswith(b"-----"):
            load = serialization.load_pem_public_key
        public = load(content)
        if isinstance(public, ec.EllipticCurvePublicKey):
            form = serialization.PublicFormat.SubjectPublicKeyInfo
            return digest(public.public_bytes(serialization.Encoding.DER, form)), public
    raise InvalidInput(
        "public-key-unusable",
        f"{path} is no public key of an elliptic curve (PEM or DER).",
        next="Write it with `aws kms get-public-key --key-id ARN --query PublicKey --output text | base64 -d >KEY`.",
    )


def _is_of(public: "EllipticCurvePublicKey", manifest: bytes, content: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        public.verify(content, manifest, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True
