"""What moto's Parameter Store lacks: reads that lag behind writes, a limit on a value's length, and throttling.

Knows moto's private names. Never stores a parameter itself.
"""

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

from moto.ssm.models import SimpleSystemManagerBackend

from buddy_sandbox.wire import AwsError, Throttle

STANDARD_CHARACTERS = 4096
ADVANCED_CHARACTERS = 8192
_WRITES = ("put_parameter", "delete_parameter", "delete_parameters")
_READS = ("get_parameter", "get_parameters", "get_parameters_by_path", "get_parameter_history", "describe_parameters")


class Parameters:
    """How Parameter Store behaves; one object in a process.

    Attributes that may be set at any time, each with AWS's usual value:
        delay_s: virtual seconds for which reads still show what was there before a write.
        throttle.for_s: virtual seconds, from when it is set, for which every call is throttled.
    """

    delay_s = 0.0

    def __init__(self) -> None:
        self.throttle = Throttle()
        self._before: dict[tuple[str, str, str], tuple[float, list[Any]]] = {}

    def reset(self) -> None:
        """Return every attribute to its usual value."""
        self.__dict__.clear()
        self.__init__()  # type: ignore[misc]

    def check(self, operation: str, body: Mapping[str, Any]) -> None:
        """Raise AwsError for a call that AWS would refuse and moto does not."""
        if self.throttle.active():
            raise AwsError("ThrottlingException", "Rate exceeded")
        if operation != "PutParameter":
            return
        advanced = body.get("Tier") == "Advanced"
        limit = ADVANCED_CHARACTERS if advanced else STANDARD_CHARACTERS
        if len(body.get("Value", "")) > limit:
            tier = "Advanced" if advanced else "Standard"
            message = f"{tier} tier parameters support a maximum parameter value of {limit} characters."
            if not advanced:
                message += (
                    " To create a larger parameter value, upgrade the parameter to use the advanced-parameter tier."
                )
            raise AwsError("ValidationException", message)

    def remember(self, backend: Any, names: list[str]) -> None:
        """Keep what reads show for ``delay_s`` from now on."""
        if self.delay_s <= 0:
            return
        for name in names:
            shown = self._shown(backend, name)
            before = list(backend._parameters[name]) if shown is None else shown
            self._before[*_place(backend), name] = (time.time() + self.delay_s, before)

    def reading(self, backend: Any, read: Callable[[], Any]) -> Any:
        """Run a read as if the latest writes had not come yet. The server lets one call of moto run at a time."""
        names = [name for *place, name in self._before if tuple(place) == _place(backend)]
        lagging = {name: shown for name in names if (shown := self._shown(backend, name)) is not None}
        current = {name: list(backend._parameters[name]) for name in lagging}
        _replace(backend, lagging)
        try:
            return read()
        finally:
            _replace(backend, current)

    def _shown(self, backend: Any, name: str) -> list[Any] | None:
        until, before = self._before.get((*_place(backend), name), (0.0, []))
        return list(before) if time.time() < until else None


def _place(backend: Any) -> tuple[str, str]:
    return backend.account_id, backend.region_name


def _replace(backend: Any, parameters: Mapping[str, list[Any]]) -> None:
    """Put these versions in place of what the backend has; a parameter without versions does not exist."""
    for name, versions in parameters.items():
        backend._parameters[name] = versions
        if not versions:
            del backend._parameters[name]


PARAMETERS = Parameters()


def _writing(write: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(write)
    def remembering(backend: Any, *args: Any, **fields: Any) -> Any:
        given = fields.get("name") or fields.get("names") or args[0]
        PARAMETERS.remember(backend, [given] if isinstance(given, str) else list(given))
        return write(backend, *args, **fields)

    return remembering


def _lagging(read: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(read)
    def before_the_write(backend: Any, *args: Any, **fields: Any) -> Any:
        return PARAMETERS.reading(backend, lambda: read(backend, *args, **fields))

    return before_the_write


@functools.cache
def install() -> None:
    """Put ours in moto's place; once in a process."""
    for names, wrap in ((_WRITES, _writing), (_READS, _lagging)):
        for name in names:
            setattr(SimpleSystemManagerBackend, name, wrap(getattr(SimpleSystemManagerBackend, name)))
