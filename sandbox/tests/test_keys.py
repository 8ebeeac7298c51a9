"""KMS signs what it is given, and says no as AWS does: any other tool verifies what the sandbox signed."""

import hashlib
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from serving import refusal

from buddy_sandbox.server import Sandbox

MESSAGE = b'{"run": "7f3a91c2"}'
DIGEST = hashlib.sha256(MESSAGE).digest()
ASKED = {"Message": DIGEST, "MessageType": "DIGEST", "SigningAlgorithm": "ECDSA_SHA_256"}


@pytest.fixture
def kms(sandbox: Sandbox) -> Any:
    sandbox.front.do_reset()
    return sandbox.world.client("kms")


def key(kms: Any, spec: str = "ECC_NIST_P256", usage: str = "SIGN_VERIFY") -> str:
    return str(kms.create_key(KeySpec=spec, KeyUsage=usage)["KeyMetadata"]["Arn"])


def test_a_signature_of_a_digest_is_one_of_its_message(kms: Any) -> None:
    """Checked without KMS, with the key that GetPublicKey gives: a digest is not hashed again.

    Source: KMS API reference, Sign, MessageType.
    """
    arn = key(kms)
    reply = kms.sign(KeyId=arn, **ASKED)
    assert (reply["KeyId"], reply["SigningAlgorithm"]) == (arn, "ECDSA_SHA_256")
    answer = kms.get_public_key(KeyId=arn)
    public = serialization.load_der_public_key(answer["PublicKey"])
    assert isinstance(public, ec.EllipticCurvePublicKey) and answer["KeySpec"] == "ECC_NIST_P256"
    public.verify(reply["Signature"], MESSAGE, ec.ECDSA(hashes.SHA256()))
    assert kms.verify(KeyId=arn, Signature=reply["Signature"], **ASKED)["SignatureValid"] is True
    raw = {"Message": MESSAGE, "SigningAlgorithm": "ECDSA_SHA_256"}
    assert kms.verify(KeyId=arn, Signature=reply["Signature"], **raw)["SignatureValid"] is True


@pytest.mark.parametrize("what", ["another message", "another key", "another signature", "no signature"])
def test_a_wrong_signature_is_an_error(kms: Any, what: str) -> None:
    """Source: KMS API reference, Verify: KMSInvalidSignatureException."""
    arn = key(kms)
    given = {"KeyId": arn, "Signature": kms.sign(KeyId=arn, **ASKED)["Signature"], **ASKED}
    given |= {
        "another message": {"Message": hashlib.sha256(b"other").digest()},
        "another key": {"KeyId": key(kms)},
        "another signature": {"Signature": given["Signature"][:-1] + bytes([given["Signature"][-1] ^ 1])},
        "no signature": {"Signature": b"\0" * 70},
    }[what]
    assert refusal(kms.verify, **given)[0] == "KMSInvalidSignatureException"


def test_a_key_that_cannot_sign_is_refused(kms: Any) -> None:
    """Another usage, another algorithm, a digest of another length, a disabled key, one to be deleted, none.

    Source: KMS API reference, Sign; KMS developer guide, key states.
    """
    arn = key(kms)
    assert (
        refusal(kms.sign, KeyId=key(kms, "SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT"), **ASKED)[0]
        == "InvalidKeyUsageException"
    )
    assert refusal(kms.sign, KeyId=key(kms, "RSA_2048"), **ASKED)[0] == "InvalidKeyUsageException"
    assert refusal(kms.sign, KeyId=arn, **{**ASKED, "Message": b"short"})[0] == "ValidationException"
    kms.disable_key(KeyId=arn.rpartition("/")[2])
    for call, given in ((kms.sign, ASKED), (kms.verify, {**ASKED, "Signature": b"s"}), (kms.get_public_key, {})):
        assert refusal(call, KeyId=arn, **given)[0] == "DisabledException"
    kms.schedule_key_deletion(KeyId=arn.rpartition("/")[2], PendingWindowInDays=7)
    assert refusal(kms.sign, KeyId=arn, **ASKED)[0] == "KMSInvalidStateException"
    assert refusal(kms.sign, KeyId=arn.replace(arn[-36:], "0" * 8 + arn[-28:]), **ASKED)[0] == "NotFoundException"
