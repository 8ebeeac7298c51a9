"""The picture of a fleet's rollback: worst first, at most twenty rows, nothing overprinted, unknown is never 0."""

import pytest

from buddy_ops.fleet.recovery import Recovery
from buddy_ops.notebook.fleet_recovery import SHOWN, lay_out
from tests.notebook.test_chart_shapes import require_free_texts

ONE = Recovery("pay-eu-west-1", before=0.048, requests=2000, failed=2, minutes=3, limit=0.01)
FLEETS = {
    "one": [ONE],
    "nothing known": [Recovery("pay", None, 0, 0, 0, 0.01)],
    "no minute yet": [Recovery("pay", 1.0, 0, 0, 0, 0.01)],
    "without requests": [Recovery("pay", 0.5, 0, 0, 4, 0.01)],
    "all well": [Recovery(f"shop-{number}", 0.0, 100, 0, 2, 0.005) for number in range(12)],
    "many with long names": [
        Recovery(f"{'checkout-and-payments-' * 3}{number}", number / 30, 12_345_678, 123, 9, 0.02)
        for number in range(30)
    ],
}


@pytest.mark.parametrize("name", FLEETS)
def test_nothing_overprints_or_leaves_the_picture(name: str) -> None:
    require_free_texts(lay_out("Error rates at 03:12 UTC", FLEETS[name]))


def test_the_rest_is_counted() -> None:
    """Thirty targets: twenty rows, ten counted, in the picture and in its words."""
    scene = lay_out("Error rates", FLEETS["many with long names"])
    shown = [text.text for text in scene.texts]
    assert len([text for text in shown if "→" in text]) == SHOWN
    assert "10 more targets not shown" in shown and scene.description.endswith("10 more targets not shown.")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("one", "pay-eu-west-1: 4.8 % → 0.1 % of 2,000 (limit 1 %)."),
        ("nothing known", "pay: unknown → not published yet (limit 1 %)."),
        ("no minute yet", "pay: 100 % → not published yet (limit 1 %)."),
        ("without requests", "pay: 50 % → no requests (limit 1 %)."),
    ],
)
def test_what_is_not_known_is_not_zero(name: str, words: str) -> None:
    assert words in lay_out("Error rates", FLEETS[name]).description


def test_what_still_fails_comes_first() -> None:
    """Then what failed most before. One failed request of a few is no reason to come first."""
    names = {"one failed": (0.0, 1), "healed": (0.9, 0), "fails": (0.1, 5), "worse": (0.0, 9)}
    found = [Recovery(name, before, 60, failed, 2, 0.01) for name, (before, failed) in names.items()]
    ranked = [each.name for each in sorted(found, key=lambda each: each.harm)]
    assert ranked == ["worse", "fails", "healed", "one failed"]
