"""Signatures by a key of AWS KMS, which never gives the private key to anybody.

The signature is an ordinary one (ECDSA on P-256 with SHA-256): any tool verifies it with the key's public half.
"""

from typing import Literal

from buddy_ops.aws.session import Target
from buddy_ops.core.errors import AwsFailed

ALGORITHM: Literal["ECDSA_SHA_256"] = "ECDSA_SHA_256"
WRONG = "KMSInvalidSignatureException"


def sign_digest(target: Target, key: str, digest: bytes) -> tuple[str, bytes]:
    """The ARN of the key that signed, and its signature (DER) of a SHA-256. AWS: kms:Sign, changes nothing.

    Args:
        key: the key's ARN.

    Raises:
        AwsFailed: ``signing-key-unusable``, ``access-denied``, and how AWS or the connection to it failed.
    """
    reply = target.client("kms").sign(KeyId=key, Message=digest, MessageType="DIGEST", SigningAlgorithm=ALGORITHM)
    return reply["KeyId"], reply["Signature"]


def verify_digest(target: Target, key: str, digest: bytes, signature: bytes) -> bool:
    """Whether a key made this signature of a SHA-256. AWS: kms:Verify, reads only.

    Raises:
        AwsFailed: as ``sign_digest``: whether the signature is right is unknown.
    """
    try:
        reply = target.client("kms").verify(
            KeyId=key, Message=digest, MessageType="DIGEST", Signature=signature, SigningAlgorithm=ALGORITHM
        )
    except AwsFailed as failure:
        if failure.code == WRONG:
            return False
        raise
    return reply["SignatureValid"] is True
