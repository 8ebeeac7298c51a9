"""What redacting costs: CPU seconds of 10 MB of output of several kinds, their growth, and the ratio to a plain copy.

Run it with ``python -m benchmarks.redaction``; ratios and growth are what counts, the seconds are this machine's.
"""

import base64
import html
import json
import random
import time
from collections.abc import Callable

from buddy_ops.core.redaction import Redactor

MEGABYTES = (1, 5, 10)
AIM_S = 1.0


def main() -> None:
    """Measure and print."""
    rng = random.Random(7)
    for name, line in KINDS.items():
        text = "".join(line(rng, number) for number in range(4000))
        times = [measured(text, megabytes) for megabytes in MEGABYTES]
        last = times[-1]
        growth = last / times[0] * MEGABYTES[0] / MEGABYTES[-1]
        print(
            f"{name}: {', '.join(f'{size} MB {taken:.2f} s' for size, taken in zip(MEGABYTES, times, strict=True))} "
            f"of CPU (aim for 10 MB: at most {AIM_S:g}); growth {growth:.2f} of linear; "
            f"{last / copied(text):.0f} times a plain copy"
        )


def measured(text: str, megabytes: int) -> float:
    """CPU seconds of redacting so much text, of which no part repeats."""
    redactor = Redactor()
    for number in range(30):
        redactor.add_secret(f"known-{number}-value-{number * 7919:x}")
    whole = repeated(text, megabytes)
    began = time.process_time()
    redactor.redact(whole)
    return time.process_time() - began


def copied(text: str) -> float:
    """CPU seconds of encoding and decoding 10 MB, which each output undergoes."""
    whole = repeated(text, MEGABYTES[-1])
    began = time.process_time()
    whole.encode().decode()
    return time.process_time() - began


def repeated(text: str, megabytes: int) -> str:
    """So much text; each repetition begins with its number, so that no part is remembered from another."""
    times = megabytes * 1_000_000 // len(text) + 1
    return "".join(f"{number}\n{text}" for number in range(times))[: megabytes * 1_000_000]


def _hex(rng: random.Random, digits: int) -> str:
    return f"{rng.getrandbits(digits * 4):0{digits}x}"


def _log(rng: random.Random, number: int) -> str:
    request = "-".join(_hex(rng, digits) for digits in (8, 4, 4, 4, 12))
    return (
        f"2026-11-22T03:{number % 60:02}:12.{number % 1000:03}Z\t{request}\tINFO\tv{number % 3} answered in "
        f"{rng.random() * 900:.1f} ms, {rng.randrange(10**6):,} items of table buddy-reminders, token cache hit\n"
    )


def _json_line(rng: random.Random, number: int) -> str:
    inner = json.dumps({"message": f'said "{number}"\n', "sha256": _hex(rng, 64), "next_token": number})
    return json.dumps({"at": "2026-11-22T03:12:00Z", "seq": number, "body": inner}) + "\n"


def _table(rng: random.Random, number: int) -> str:
    return (
        f"<tr><td>{html.escape(f'<v{number}> & co')}</td><td>{rng.random():.3f} %</td><td>{_hex(rng, 12)}</td></tr>\n"
    )


def _traceback(rng: random.Random, number: int) -> str:
    return (
        f"\x1b[32m     {number}\x1b[39m   \x1b[38;5;28;01mraise\x1b[39;00m \x1b[38;5;167;01mValueError\x1b[39;00m"
        f"(\x1b[33m'cannot read {rng.randrange(10**6)}'\x1b[39m)\n"
    )


def _base64(rng: random.Random, number: int) -> str:
    return base64.b64encode(rng.randbytes(57)).decode() + "\n"


KINDS: dict[str, Callable[[random.Random, int], str]] = {
    "log lines": _log,
    "JSON in JSON": _json_line,
    "HTML tables": _table,
    "coloured tracebacks": _traceback,
    "random base64": _base64,
}


if __name__ == "__main__":
    main()
