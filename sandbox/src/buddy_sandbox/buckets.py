"""What moto's S3 lacks: an upload into a bucket that locks its objects must come with a checksum.

Knows moto's private names. Source: S3 API reference, PutObject; S3 user guide, Object Lock considerations.
"""

from moto.s3.models import s3_backends
from werkzeug.wrappers import Request

from buddy_sandbox.wire import AwsError

MISSING = "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters"


def check(request: Request) -> None:
    """Raise AwsError for an upload without a checksum that Object Lock would apply to."""
    bucket, _, key = request.path.lstrip("/").partition("/")
    if request.method != "PUT" or not key or request.query_string:
        return
    if not (_locks_by_default(bucket) or "x-amz-object-lock-mode" in request.headers):
        return
    names = [name.lower() for name, _ in request.headers]
    # A checksum may follow the body: then the trailer's name is announced.
    announced = request.headers.get("x-amz-trailer", "").lower()
    if "content-md5" in names or announced.startswith("x-amz-checksum-"):
        return
    if not any(name.startswith("x-amz-checksum-") for name in names):
        raise AwsError("InvalidRequest", MISSING)


def _locks_by_default(name: str) -> bool:
    for account in s3_backends.values():
        for backend in account.values():
            bucket = backend.buckets.get(name)
            if bucket is not None:
                return bool(bucket.object_lock_enabled and bucket.default_lock_mode)
    return False
