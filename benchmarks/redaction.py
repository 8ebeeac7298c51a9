"""What redacting costs: CPU seconds of output of several kinds, how they grow, and the ratio to a plain copy.

Run it with ``python -m benchmarks.redaction``; ratios and growth are what counts, the seconds are this machine's.
With ``--check`` it ends with an error where a kind is over the aim, or does not grow with its length.
"""

import base64
import html
import json
import random
import sys
import textwrap
import time
import urllib.parse
from collections.abc import Callable

from buddy_ops.core import redaction
from buddy_ops.core.redaction import Redactor

MEGABYTES = (10, 20, 40)
AIM_S = 1.0
MOST_GROWTH = 1.3
"""Of what is linear: the machine's other load is part of what is measured."""


def main() -> None:
    """Measure and print."""
    rng = random.Random(7)
    over = []
    for name, line in KINDS.items():
        text = "".join(line(rng, number) for number in range(4000))
        times = [measured(text, megabytes) for megabytes in MEGABYTES]
        copy = copied(text)
        growth = times[-1] / times[0] * MEGABYTES[0] / MEGABYTES[-1]
        seconds = ", ".join(f"{size} MB {taken:.2f} s" for size, taken in zip(MEGABYTES, times, strict=True))
        print(
            f"{name}: {seconds} of CPU (aim for {MEGABYTES[0]} MB: at most {AIM_S:g}); growth {growth:.2f} of linear; "
            f"{times[0] / copy:.0f} times a plain copy",
            flush=True,
        )
        if times[0] > AIM_S or growth > MOST_GROWTH:
            over.append(name)
    if over and "--check" in sys.argv:
        sys.exit(f"over the aim: {', '.join(over)}")


def measured(text: str, megabytes: int) -> float:
    """CPU seconds of redacting so much text, of which no part is remembered from an earlier one."""
    redaction.REMEMBERED = 1
    redactor = Redactor()
    for number in range(30):
        redactor.add_secret(f"known-{number}-value-{number * 7919:x}")
    whole = repeated(text, megabytes)
    began = time.process_time()
    redactor.redact(whole)
    return time.process_time() - began


def copied(text: str) -> float:
    """CPU seconds of encoding and decoding 10 MB, which each output undergoes."""
    whole = repeated(text, MEGABYTES[0])
    began = time.process_time()
    whole.encode().decode()
    return time.process_time() - began


def repeated(text: str, megabytes: int) -> str:
    """So much text; each repetition begins with its number."""
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


def _base64_text(rng: random.Random, number: int) -> str:
    return base64.b64encode(_log(rng, number).encode()).decode() + "\n"


def _wrapped_base64(rng: random.Random, number: int) -> str:
    texts = "".join(_log(rng, number) for _ in range(20)).encode()
    return "\n".join(textwrap.wrap(base64.b64encode(texts).decode(), 76)) + "\n\n" if number % 20 == 0 else ""


def _other_letters(rng: random.Random, number: int) -> str:
    said = "".join(chr(rng.randrange(0x4E00, 0x9FA0)) for _ in range(20))
    return json.dumps({"at": "2026-11-22T03:12:00Z", "said": said, "name": f"Jürgen {number}"}) + "\n"


def _address(rng: random.Random, number: int) -> str:
    query = urllib.parse.urlencode({"q": f'"v{number}" & co: {rng.random():.3f} %', "page": _hex(rng, 8)})
    return f"GET https://buddy.example/reminders/{number}?{query} 200 {rng.random() * 900:.1f} ms\n"


def _drawing(rng: random.Random, number: int) -> str:
    points = " L ".join(f"{rng.random() * 600:.6f} {rng.random() * 400:.6f}" for _ in range(8))
    return f'<path d="M {points}" clip-path="url(#p{_hex(rng, 10)})" style="fill: none; stroke-width: {number % 3}"/>\n'


def _figures(rng: random.Random, number: int) -> str:
    return ",".join((str(number), *(f"{rng.random() * 1000:.4f}" for _ in range(12)))) + "\n"


def _hex_lines(rng: random.Random, number: int) -> str:
    return f"{number:08x}  {_hex(rng, 64)}  build-{number}.zip\n"


def _environment(rng: random.Random, number: int) -> str:
    return f"{{'TOKEN_TTL_{number}': '3600', 'TABLE_NAME': 'buddy-{rng.randrange(100)}', 'key': 'user:{number}'}}\n"


def _secrets(rng: random.Random, number: int) -> str:
    inner = json.dumps({"password": f"Tr0ub4dor-{_hex(rng, 8)}", "token": f"ghp_{_hex(rng, 36)}"})
    return json.dumps({"seq": number, "body": inner}) + "\n"


KINDS: dict[str, Callable[[random.Random, int], str]] = {
    "log lines": _log,
    "JSON in JSON": _json_line,
    "HTML tables": _table,
    "coloured tracebacks": _traceback,
    "random base64": _base64,
    "base64 of log lines": _base64_text,
    "wrapped base64 of log lines": _wrapped_base64,
    "JSON with \\u": _other_letters,
    "addresses with %": _address,
    "SVG": _drawing,
    "figures": _figures,
    "hashes": _hex_lines,
    "names of settings": _environment,
    "a secret a line": _secrets,
}


if __name__ == "__main__":
    main()
