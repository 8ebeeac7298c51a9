"""The parameter ``artifact``: each form is read as what it is, and what is almost one is refused with the reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buddy_ops.core.artifacts import Image, LocalFile, PublishedVersion, StoredObject, parse_artifact
from buddy_ops.core.errors import InvalidInput

DIGEST = "0123456789abcdef" * 4
REGISTRY = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"

KEYS = st.text(st.characters(exclude_characters="?", exclude_categories=["C", "Z"]), min_size=1)


@given(
    st.from_regex(r"[a-z0-9][a-z0-9.-]{1,20}[a-z0-9]", fullmatch=True),
    KEYS,
    st.from_regex(r"[A-Za-z0-9._-]{1,40}|", fullmatch=True),
)
def test_an_object_is_read_as_it_is_written(bucket: str, key: str, version: str) -> None:
    """Its name in a plan names the same object again."""
    stored = StoredObject(bucket, key, version)
    assert parse_artifact(str(stored)) == stored


@given(st.integers(1, 10**9))
def test_a_version_is_read_by_its_number(number: int) -> None:
    """version:7 is version 7."""
    assert parse_artifact(f"version:{number}") == PublishedVersion(str(number))


@given(st.from_regex(r"[a-z0-9]{1,9}(/[a-z0-9]{1,9}){0,2}", fullmatch=True), st.sampled_from(["", ":1.2", ":latest"]))
def test_an_image_is_read_by_its_digest_alone(repository: str, tag: str) -> None:
    """A tag beside the digest could be moved: it is not part of what is deployed."""
    found = parse_artifact(f"{REGISTRY}/{repository}{tag}@sha256:{DIGEST}")
    assert found == Image(f"{REGISTRY}/{repository}@sha256:{DIGEST}", "eu-west-1", DIGEST)


@given(st.text())
def test_no_text_is_an_error_of_ours(text: str) -> None:
    """It is a form, a path, or refused."""
    try:
        found = parse_artifact(text)
    except InvalidInput as refused:
        assert refused.reference in ("artifact-form", "image-not-pinned")
    else:
        assert not isinstance(found, LocalFile) or found.path == text


@pytest.mark.parametrize("path", ["build/app.zip", "src", "versions/7.zip", "s3/app.zip", "a:b.zip", "/tmp/x.zip", ""])
def test_a_path_is_a_path(path: str) -> None:
    """Also one that looks a little like another form."""
    assert parse_artifact(path) == LocalFile(path)


@pytest.mark.parametrize(
    "text",
    [
        *("s3://", "s3://bucket", "s3://bucket/", "s3:/bucket/key", "s3://Bucket/key", "s3://b/key"),
        *(
            "s3://bucket/key?versionId=",
            "s3://bucket/key?version=1",
            "s3://bucket/key?versionId=1&x=2",
            "s3://bucket/k?",
        ),
        *("version:", "version:0", "version:07", "version:-1", "version:live", "version:$LATEST", "version:7 "),
        *(f"{REGISTRY}/app@sha256:{DIGEST[1:]}", f"{REGISTRY}/App@sha256:{DIGEST}", f"https://{REGISTRY}/app"),
        *("https://example.com/app.zip", "docker:app", "arn:aws:lambda:eu-west-1:123456789012:function:shop:7"),
    ],
)
def test_what_is_almost_a_form_is_refused(text: str) -> None:
    """It would be taken for a path that is missing, or for another object."""
    with pytest.raises(InvalidInput, match="artifact-form") as refused:
        parse_artifact(text)
    assert "version:NUMBER" in refused.value.next


@pytest.mark.parametrize(("given", "tag"), [(":v1.2", "v1.2"), ("", "latest")])
def test_an_image_by_its_tag_is_refused_with_the_command_that_gives_the_digest(given: str, tag: str) -> None:
    """The tag may name another image when the approval comes."""
    with pytest.raises(InvalidInput, match="image-not-pinned") as refused:
        parse_artifact(f"{REGISTRY}/team/shop{given}")
    command = f"aws ecr describe-images --region eu-west-1 --repository-name team/shop --image-ids imageTag={tag} "
    assert command in refused.value.next
