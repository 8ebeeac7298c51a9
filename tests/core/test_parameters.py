"""A parameters cell's text, with other values."""

import pytest

from buddy_ops.core import parameters


def test_values_are_written_into_declarations() -> None:
    """Each is read back as it was written, whatever characters it has; comments and other lines stay."""
    source = (
        'environment: str = "sandbox"  # which, e.g. "prod"\nnames: list[str] = []  # ü\nminutes: float = 60\n\n\nx = 1'
    )
    values = {"environment": "p'r\"od\\n\nü", "names": ["Ada", "Grace"], "minutes": 30.0, "unknown": 1}
    written = parameters.write_values(source, values)
    declared = parameters.parse_declarations(written)
    assert {name: each.default for name, each in declared.items()} == {
        name: value for name, value in values.items() if name != "unknown"
    }
    assert [each.meaning for each in declared.values()] == ['which, e.g. "prod"', "ü", ""]
    assert written.endswith("\n\n\nx = 1") and len(written.splitlines()) == len(source.splitlines())
    with pytest.raises(ValueError):
        parameters.write_values("environment: str = (", {})
