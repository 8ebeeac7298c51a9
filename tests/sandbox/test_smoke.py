"""Smoke tests of a version by its number: real invocations of Buddy's handler, before any traffic."""

from collections.abc import Callable

import pytest

from buddy_ops import smoke
from buddy_ops.errors import Refused
from tests.conftest import Situation

Bring = Callable[..., Situation]


def publish(here: Situation, profile: str) -> str:
    """A version of this build, without traffic."""
    lam = here.client("lambda")
    with open(here.build(profile), "rb") as code:  # noqa: PTH123 - the builder gives a name
        lam.update_function_code(FunctionName=here.function, ZipFile=code.read())
    here.ask("advance", seconds=5)
    version = str(lam.publish_version(FunctionName=here.function)["Version"])
    here.ask("advance", seconds=5)
    return version


def test_a_good_version_passes_every_test(situation: Bring) -> None:
    """Launch and reminder are answered with speech, the end of a session without; the alias is not touched."""
    here = situation("good", history_minutes=1)
    version = publish(here, "good")
    results = smoke.refuse(here.connect(), version)
    assert [str(each) for each in results] == ["launch: passed", "reminder: passed", "session end: passed"]
    assert "Welcome to Buddy" in results[0].said
    assert here.alias()["FunctionVersion"] == "1"


@pytest.mark.parametrize(
    ("profile", "trouble"),
    [("total_failure", "it raised"), ("apologises", "it apologised"), ("timeouts", "")],
)
def test_a_broken_version_is_refused_with_what_it_did(situation: Bring, profile: str, trouble: str) -> None:
    """A version that raises or apologises is refused, exit code 4; one that fails now and then is the judge's to catch."""
    here = situation("good", history_minutes=1)
    version = publish(here, profile)
    if not trouble:
        assert all(each.trouble is None for each in smoke.run(here.connect(), version))
        return
    with pytest.raises(Refused, match="smoke-failed") as refused:
        smoke.refuse(here.connect(), version)
    assert trouble in refused.value.what and f"v{version}" in refused.value.now
    assert refused.value.exit_code == 4


def test_the_users_are_synthetic(situation: Bring) -> None:
    """No smoke test speaks for a person: each request carries a user who does not exist."""
    here = situation("first_deployment")
    target = here.connect()
    for test in target.settings.smoke_tests:
        request = smoke.request(target, test)
        assert request["session"]["user"]["userId"] == smoke.SYNTHETIC_USER
        assert request["request"]["type"] == test.request
