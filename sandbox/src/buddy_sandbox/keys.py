"""What moto's KMS lacks: signatures of digests, AWS's answer to a wrong signature, and the states of a key.

moto signs the hash of what it is given, also where that is a hash already (MessageType DIGEST), and answers False where
AWS raises an error. Knows moto's private names. Source: KMS API reference, Sign, Verify and GetPublicKey.
"""

import base64
import binascii
import functools
import json
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from moto.core.exceptions import JsonRESTError
from moto.kms.models import Key
from moto.kms.responses import KmsResponse

ECDSA = {
    "ECDSA_SHA_256": hashes.SHA256(),
    "ECDSA_SHA_384": hashes.SHA384(),
    "ECDSA_SHA_512": hashes.SHA512(),
}
RAW_BYTES = 4096
"""How long a message may be that KMS hashes itself."""


def _sign(response: KmsResponse) -> str:
    key, algorithm, message = _prepare(response, "Sign")
    signature = key.private_key.private_key.sign(message, ec.ECDSA(utils.Prehashed(ECDSA[algorithm])))  # type: ignore[attr-defined]
    return json.dumps(
        {"KeyId": key.arn, "Signature": base64.b64encode(signature).decode(), "SigningAlgorithm": algorithm}
    )


def _verify(response: KmsResponse) -> str:
    key, algorithm, message = _prepare(response, "Verify")
    try:
        signature = base64.b64decode(response._get_param("Signature"), validate=True)
        public = key.private_key.private_key.public_key()  # type: ignore[attr-defined]
        public.verify(signature, message, ec.ECDSA(utils.Prehashed(ECDSA[algorithm])))
    except (InvalidSignature, binascii.Error):
        raise JsonRESTError("KMSInvalidSignatureException", "") from None
    return json.dumps({"KeyId": key.arn, "SignatureValid": True, "SigningAlgorithm": algorithm})


def _get_public_key(response: KmsResponse) -> str:
    key = _usable(response, "GetPublicKey")
    answer = {
        "KeyId": key.arn,
        "PublicKey": base64.b64encode(key.private_key.public_key()).decode(),
        "CustomerMasterKeySpec": key.key_spec,
        "KeySpec": key.key_spec,
        "KeyUsage": key.key_usage,
        "SigningAlgorithms": key.signing_algorithms,
    }
    return json.dumps(answer)


def _prepare(response: KmsResponse, operation: str) -> tuple[Key, str, bytes]:
    """The key, the algorithm and the digest of a call to Sign or Verify; raises what AWS answers otherwise."""
    key = _usable(response, operation)
    algorithm = str(response._get_param("SigningAlgorithm"))
    if algorithm not in (key.signing_algorithms or ()):
        raise JsonRESTError(
            "InvalidKeyUsageException", f"Algorithm {algorithm} is incompatible with key spec {key.key_spec}."
        )
    if algorithm not in ECDSA:
        raise JsonRESTError("NotImplementedException", f"the sandbox has no {algorithm}")
    message = response._get_param("Message") or b""
    kind = ECDSA[algorithm]
    if response._get_param("MessageType") == "DIGEST":
        if len(message) != kind.digest_size:
            raise JsonRESTError("ValidationException", f"Digest is invalid length for algorithm {algorithm}.")
        return key, algorithm, message
    if not 1 <= len(message) <= RAW_BYTES:
        raise JsonRESTError("ValidationException", "Value at 'message' failed to satisfy constraint: 1 to 4096 bytes")
    hashed = hashes.Hash(kind)
    hashed.update(message)
    return key, algorithm, hashed.finalize()


def _usable(response: KmsResponse, operation: str) -> Key:
    """The key that a call names. Raises what AWS answers where there is none, or where it cannot be used."""
    given = response._get_param("KeyId")
    response._validate_key_id(given)
    key = response.kms_backend.describe_key(given)
    if key.key_state == "Disabled":
        raise JsonRESTError("DisabledException", f"{key.arn} is disabled.")
    if key.key_state == "PendingDeletion":
        raise JsonRESTError("KMSInvalidStateException", f"{key.arn} is pending deletion.")
    if key.key_usage != "SIGN_VERIFY":
        said = f"{key.arn} key usage is {key.key_usage} which is not valid for {operation}."
        raise JsonRESTError("InvalidKeyUsageException", said)
    return key


@functools.cache
def install() -> None:
    """Put ours in moto's place; once in a process."""
    for name, ours in (("sign", _sign), ("verify", _verify), ("get_public_key", _get_public_key)):
        replacement: Any = ours
        setattr(KmsResponse, name, replacement)
