"""What a rollout deploys: a build, or the serving code with another configuration. Never writes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from buddy_ops.aws import aliases, versions
from buddy_ops.aws.aliases import Alias
from buddy_ops.aws.session import Target
from buddy_ops.aws.versions import LATEST, Version
from buddy_ops.core import artifacts
from buddy_ops.core.artifacts import Artifact, PublishedVersion
from buddy_ops.core.errors import BuddyError, Refused
from buddy_ops.core.front_end import parameter
from buddy_ops.core.plan import differing_names
from buddy_ops.core.settings import invalid
from buddy_ops.core.text import join_words
from buddy_ops.deployment import _obstacles, builds
from buddy_ops.deployment.builds import Build
from buddy_ops.migrations import schema


@dataclass(frozen=True)
class RequestedChange:
    """What is deployed: a build, or the serving version with other environment variables.

    Attributes:
        sha256: the code's CodeSha256.
        known: the version that already has this code and configuration, or empty.
        base: the version whose environment ``variables`` change; empty: $LATEST's, with the code in ``archive``.
        variables: environment variables that the new version sets, or removes (None).
        build: what is uploaded; None where only the configuration changes, or a published version is deployed.
        named: whether a person named the version, which another tool published.
        drift: how $LATEST differs from the version that serves, a sentence each.
        doubts: what may keep it from working, a sentence each.
        expected: the configuration that the new version has, or is to have, by name. The approval covers it.
        shows_variables: whether ``expected`` has the environment variables: a caller may not be allowed to read them.
    """

    sha256: str
    known: str
    base: str = ""
    variables: Mapping[str, str | None] = field(default_factory=dict)
    build: Build | None = field(default=None, repr=False)
    named: bool = False
    drift: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    expected: Mapping[str, object] = field(default_factory=dict, repr=False)
    shows_variables: bool = True

    @property
    def name(self) -> str:
        """The new version by its number, if it has one, and what is new in it."""
        name = "a new version"
        if self.known:
            name = f"v{self.known}"
        if not self.base:
            return name
        settings = ", ".join(f"{variable}={value}" for variable, value in self.variables.items())
        return f"v{self.base} with {settings} as {name}"


def merge_variables(environment: Mapping[str, str], variables: Mapping[str, str | None]) -> dict[str, str]:
    """An environment with ``variables`` set in it, or removed (None)."""
    return {name: value for name, value in {**environment, **variables}.items() if value is not None}


def request_change(
    target: Target,
    alias: Alias | None,
    artifact: str,
    variables: Mapping[str, str | None] | None,
    *,
    new_configuration: bool = False,
) -> RequestedChange:
    """What is deployed, once it is known that it can be.

    Args:
        new_configuration: whether a version that has this code, but another configuration than $LATEST, is not used.

    AWS, Raises: as ``plan_rollout``.
    """
    named: Artifact | None = None
    # A change of variables alone may come without a build: then the code is that of $LATEST.
    if artifact or variables is None:
        named = artifacts.parse_artifact(artifact)
    if isinstance(named, PublishedVersion) and variables is None:
        if new_configuration:
            problem = (
                f"{parameter('artifact', f'version:{named.number}')} has a configuration of its own, and "
                f"{parameter('new_configuration', True)} demands another one; leave one of them out"
            )
            raise invalid("parameters", [problem], "invalid-parameters")
        return _published_version(target, alias, named.number)
    build: Build | None = None
    if named is not None:
        build = builds.read_build(target, named)
    # One listing for all that follows: which version has the code, what serves, and what a configuration starts from.
    published = {version.number: version for version in versions.list_versions(target)}
    latest = versions.read_version(target)
    if variables is None and build is not None:
        change = _new_build(alias, build, published, latest, new_configuration=new_configuration)
    else:
        if alias is None:
            raise aliases.alias_missing(target)
        change = _new_configuration(alias, variables or {}, published)
        if not change.known:
            _require_same_code(target, change, latest, build)
    if build is not None:
        about = builds.describe_version(target, latest)
        change = replace(change, build=build, doubts=(f"Build: {build.description}. {about}.", *build.notes))
    stable: Version | None = None
    if alias is not None:
        stable = published.get(alias.primary)
    new = published.get(change.known, latest)
    if stable is not None and change.known != stable.number:
        _obstacles.require_able_to_share(target, stable, new)
    if change.known:
        return _as_published(published[change.known], latest, published, change)
    doubts = [*change.doubts, *_obstacles.require_ready(target, latest)]
    # Code that $LATEST has already is not uploaded again, so nothing of the upload can fail.
    if build is not None and latest.sha256 != change.sha256:
        doubts += builds.require_runnable(target, build, latest)
        doubts += _obstacles.require_fitting(target, build, latest)
    doubts += _hidden_variables(latest, stable, change)
    start = _start(change, published, latest)
    shows_variables = bool(change.variables) or start.shown_variables is not None
    held: Mapping[str, str] = {}
    if shows_variables:
        held = start.variables  # refused where variables would be written that Lambda does not show
    expected = latest.configuration_with(merge_variables(held, change.variables))
    change = replace(change, doubts=tuple(doubts), expected=expected, shows_variables=shows_variables)
    if stable is None:
        return change
    return replace(change, drift=_drift(latest, stable, change))


def _published_version(target: Target, alias: Alias | None, number: str) -> RequestedChange:
    """A version that another tool published: nothing is uploaded, and $LATEST does not matter.

    Raises:
        InvalidInput: ``version-missing``.
        Refused: ``version-not-active`` or ``roles-differ``.
    """
    version = versions.read_version(target, number)
    if not version.usable:
        raise Refused(
            "version-not-active",
            f"v{number} of {target.settings.function} cannot serve: it is {version.state} ({version.reason}).",
            next="Wait until it is Active, or publish it again with the tool that published it.",
        )
    drift: tuple[str, ...] = ()
    if alias is not None and alias.primary != number:
        stable = versions.read_version(target, alias.primary)
        _obstacles.require_able_to_share(target, stable, version)
        fields = differing_names(version.settings, stable.settings)
        if version.shown_variables is not None and stable.shown_variables is not None:
            fields += differing_names(version.shown_variables, stable.shown_variables)
        if fields:
            drift = (f"Warning: v{number} differs from v{stable.number} in more than its code: {', '.join(fields)}",)
    return RequestedChange(
        version.sha256,
        number,
        named=True,
        drift=drift,
        doubts=(
            f"v{number} was published already: nothing is uploaded, and {LATEST} is not used. "
            f"{builds.describe_version(target, version)}.",
        ),
        expected=version.configuration,
        shows_variables=version.shown_variables is not None,
    )


def _start(change: RequestedChange, published: Mapping[str, Version], latest: Version) -> Version:
    """The version whose environment variables the new one starts from."""
    if change.base:
        return published[change.base]
    return latest


def _as_published(
    version: Version, latest: Version, published: Mapping[str, Version], change: RequestedChange
) -> RequestedChange:
    """A change whose version exists: it keeps the configuration that it was published with, and the plan says so."""
    shows_variables = version.shown_variables is not None
    change = replace(change, expected=version.configuration, shows_variables=shows_variables)
    start = _start(change, published, latest)
    # Variables that are not shown cannot be compared: the settings alone are.
    if start.shown_variables is None or not shows_variables:
        names = differing_names(version.settings, latest.settings)
    else:
        held = merge_variables(start.shown_variables, change.variables)
        names = differing_names(version.configuration, latest.configuration_with(held))
    if not names:
        return change
    doubt = (
        f"Warning: v{version.number} has this code already, and is used as it was published. The configuration of "
        f"{LATEST} is another: {join_words(names)}. This plan does not deploy that configuration. To publish this "
        f"code with it, set {parameter('new_configuration', True)}."
    )
    return replace(change, doubts=(*change.doubts, doubt))


def _new_build(
    alias: Alias | None,
    build: Build,
    published: Mapping[str, Version],
    latest: Version,
    *,
    new_configuration: bool,
) -> RequestedChange:
    """A build, with the range of schemas that it declares as a variable of its version."""
    sha256 = build.sha256
    schema_range = build.schema_range
    variables: dict[str, str | None] = {}
    held = latest.shown_variables
    # What an image declares cannot be read.
    if build.package == builds.ZIP and held is not None and schema_range != held.get(schema.VARIABLE):
        variables[schema.VARIABLE] = schema_range
    # Lambda publishes a build once; its code alone says which version it is, unless a person asks for more.
    # As numbers: as texts, 10 would come before 9.
    candidates = [*_on_alias(alias), *sorted(published, key=int, reverse=True)]
    candidates = [number for number in candidates if _has_code(published, number, sha256)]
    if new_configuration:
        wanted = latest.configuration_with(merge_variables(latest.variables, variables))
        candidates = [number for number in candidates if published[number].configuration == wanted]
    known = next(iter(candidates), "")
    if held is None and schema_range is not None and not known:
        raise _schema_range_unwritable(latest)
    return RequestedChange(sha256, known, variables=variables)


def _new_configuration(
    alias: Alias, variables: Mapping[str, str | None], published: Mapping[str, Version]
) -> RequestedChange:
    """The serving code with other environment variables."""
    # The same change again starts from where it started before, so that it is recognised and not added twice.
    base = _base_version(alias, published, variables)
    sha256 = published[base].sha256
    environment = merge_variables(published[base].variables, variables)
    # Lambda publishes nothing new where the last version is the same.
    for number in (*_on_alias(alias), max(published, key=int)):
        if _has_code(published, number, sha256) and environment == published[number].shown_variables:
            return RequestedChange(sha256, number, base, variables)
    return RequestedChange(sha256, "", base, variables)


def _base_version(alias: Alias, published: Mapping[str, Version], variables: Mapping[str, str | None]) -> str:
    """The version whose configuration a change starts from: the serving one, or where this same change came from."""
    record = alias.rollout
    # Of a version that was deleted nothing can be compared.
    if record is None or not {record.stable_version, record.new_version} <= set(published):
        return alias.primary
    before = published[record.stable_version].shown_variables
    after = published[record.new_version].shown_variables
    if before is None or after is None:
        return alias.primary
    if after == merge_variables(before, variables):
        return record.stable_version
    return alias.primary


def _on_alias(alias: Alias | None) -> list[str]:
    """The version that is being rolled out, and the one that serves."""
    if alias is None:
        return []
    if alias.rollout is not None and alias.rollout.open:
        return [alias.rollout.new_version, alias.primary]
    return [alias.primary]


def _has_code(published: Mapping[str, Version], number: str, sha256: str) -> bool:
    return number in published and published[number].sha256 == sha256


def _require_same_code(target: Target, change: RequestedChange, latest: Version, build: Build | None) -> None:
    """$LATEST may hold a build that was rolled back: its code must not be deployed along with a flag."""
    available = latest.sha256
    if build is not None:
        available = build.sha256
    if available != change.sha256:
        raise Refused(
            "code-differs",
            f"v{change.base} serves, but $LATEST of {target.settings.function} (or the given artifact) has other code. "
            "Only the configuration may change.",
            next=f"Give the zip that v{change.base} was deployed from ({parameter('artifact')}).",
        )


def _drift(latest: Version, stable: Version, change: RequestedChange) -> tuple[str, ...]:
    """What else the new version takes over from $LATEST that the serving one does not have: names, never values."""
    fields = differing_names(latest.settings, stable.settings)
    new = latest.shown_variables
    old = stable.shown_variables
    if not change.base and new is not None and old is not None:
        fields += differing_names(new, old)
    if not fields:
        return ()
    return (f"Warning: $LATEST differs from v{stable.number}, and the new version takes over: {', '.join(fields)}",)


def _hidden_variables(latest: Version, stable: Version | None, change: RequestedChange) -> Iterator[str]:
    """A sentence on environment variables that Lambda does not show, although a new build does not depend on them."""
    if change.base:
        return
    hidden = [version for version in (latest, stable) if version is not None and version.shown_variables is None]
    if not hidden:
        return
    names = join_words(versions.label(version.number) for version in hidden)
    unknown = []
    if stable is not None:
        unknown.append(f"whether they differ from those of v{stable.number}")
    if latest in hidden:
        unknown += ["whether they declare a schema", "whether someone changes them before the build is published"]
    yield (
        f"Warning: Lambda does not show the environment variables of {names} ({hidden[0].hidden_because}: the caller "
        f"lacks kms:Decrypt for the function's key). The new version takes over those of {LATEST} as they are. "
        f"It is unknown {join_words(unknown)}."
    )


def _schema_range_unwritable(latest: Version) -> BuddyError:
    """The error of a build whose schema range would replace variables that are not shown."""
    return BuddyError(
        "environment-unreadable",
        f"The build declares {schema.FILE}, which becomes a variable of its version. Lambda does not show the "
        f"environment variables of {latest.arn} ({latest.hidden_because}): writing one would lose the others.",
        next="Let the caller decrypt with the function's KMS key (kms:Decrypt), or deploy as a caller who may.",
    )
