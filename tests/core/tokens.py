"""Tokens as the providers' documentation shows them, and the encodings in which one turns up in an output.

A form is written as an example with runs in braces: {a20} letters and digits, {h32} small hex, {H} large hex, {U} large
letters and digits, {d} digits, {l} small letters and digits, {w} URL-safe base64, {b} base64. Nothing of the rules is used here.
"""

import base64
import html
import json
import random
import re
import string
import textwrap
import urllib.parse
from collections.abc import Callable

ALPHABETS = {
    "a": string.ascii_letters + string.digits,
    "h": "0123456789abcdef",
    "H": "0123456789ABCDEF",
    "U": string.ascii_uppercase + string.digits,
    "d": string.digits,
    "l": string.ascii_lowercase + string.digits,
    "w": string.ascii_letters + string.digits + "-_",
    "b": string.ascii_letters + string.digits + "+/",
}

FORMS = [
    "Atza|{w60}",
    "xapp-1-{U11}-{d13}-{h64}",
    "xoxb-{d12}-{d13}-{a24}",
    "xoxp-{d12}-{d12}-{d12}-{h32}",
    "xoxe.xoxp-1-{U60}",
    "npm_{a36}",
    "pypi-AgEIcHlwaS5vcmc{w80}",
    "SG.{w22}.{w43}",
    "hf_{a34}",
    "sk-ant-api03-{w93}AA",
    "sk-proj-{w74}T3BlbkFJ{w74}",
    "sk-{a20}T3BlbkFJ{a20}",
    "glrt-{w20}",
    "glpat-{w20}",
    "ghp_{a36}",
    "gho_{a36}",
    "ghs_{a36}",
    "github_pat_{a22}_{a59}",
    "AKIA{U16}",
    "ASIA{U16}",
    "{K40}",
    "https://hooks.slack.com/services/T{U8}/B{U8}/{a24}",
    "AIza{w35}",
    "ya29.{w60}",
    "GOCSPX-{w28}",
    "sk_live_{a24}",
    "rk_test_{a24}",
    "whsec_{a32}",
    "SK{h32}",
    "key-{h32}",
    "{h32}-us12",
    "NRAK-{U27}",
    "dapi{h32}",
    "{a14}.atlasv1.{w60}",
    "hvs.{w90}",
    "hvb.{w138}",
    "dckr_pat_{w27}",
    "lin_api_{a40}",
    "ntn_{d11}{a35}",
    "secret_{a43}",
    "glsa_{a32}_{h8}",
    "glc_eyJ{a60}",
    "dop_v1_{h64}",
    "shpat_{h32}",
    "shpss_{h32}",
    "sq0atp-{w22}",
    "sq0csp-{w43}",
    "EAAA{w60}",
    "{a3}7Q~{w31}",
    "{d9}:AA{w33}",
    "pul-{h40}",
    "PMAK-{h24}-{h34}",
    "pscale_tkn_{w43}",
    "rubygems_{h48}",
    "rdme_{l70}",
    "dp.pt.{a43}",
    "dt0c01.{U24}.{U64}",
    "duffel_live_{w43}",
    "EZAK{a54}",
    "figd_{w40}",
    "HRKU-AA{w58}",
    "FLWSECK_TEST-{h12}",
    "p8e-{l32}",
    "LTAI5t{a18}",
    "pat{a14}.{h64}",
    "ATATT3xFfGF0{w172}",
    "AKCp{a69}",
    "CFPAT-{w43}",
    "xkeysib-{h64}-{a16}",
    "shippo_live_{h40}",
    "squ_{h40}",
    "sgp_{h40}",
    "sbp_{h40}",
    "tskey-auth-{a12}CNTRL-{a32}",
    "tfp_{w44}",
    "AQVN{w36}",
    "gsk_{a52}",
    "r8_{a37}",
    "access-sandbox-{h8}-{h4}-{h4}-{h4}-{h12}",
    "sntrys_{b60}",
    "pplx-{a48}",
    "sha256~{w43}",
    "eyJhbGciOiJIUzI1NiJ9.eyJ{w40}.{w43}",
    "api-{h8}-{h4}-{h4}-{h4}-{h12}",
    "oy2{l43}",
    "CCIPAT_{a22}_{h40}",
    "AGE-SECRET-KEY-1{U58}",
    "amzn1.oa2-cs.v1.{h64}",
    "fio-u-{w64}",
    "CLOJARS_{h60}",
    "xai-{a80}",
    "nfp_{a36}",
    "glsoat-{w20}",
    "ops_eyJ{b250}",
    "{a6}_{a29}_mmk",
    "4b1d{a38}",
    "v1.0-{h24}-{h146}",
    "discord.com/api/webhooks/{d18}/{w68}",
    "FwoSecretOf://user:{a20}@db",
    "redis://:{a16}@cache",
    "postgres://buddy:{a20}@db.example",
    "API-{U26}",
    "vercel_blob_rw_{a16}_{a30}",
]


def tokens(seed: int) -> list[str]:
    """A token of each form."""
    rng = random.Random(seed)
    return [re.sub(r"\{(\w)(\d+)\}", lambda match: _run(rng, match[1], int(match[2])), form) for form in FORMS]


def _run(rng: random.Random, kind: str, length: int) -> str:
    if kind == "K":  # a bare key of AWS: 30 random bytes
        return base64.b64encode(rng.randbytes(length * 3 // 4)).decode()
    run = "".join(rng.choice(ALPHABETS[kind]) for _ in range(length))
    # Real tokens of this length have digits and letters.
    return (
        run if length < 8 or kind == "d" or (re.search(r"\d", run) and re.search("[A-Za-z]", run)) else f"{run[:-2]}a7"
    )


def secret_part(token: str) -> str:
    """What must not be found: of an address its password, of anything else all."""
    password = re.search(r"://\w*:(\w+)@", token)
    return password[1] if password else token


def _bytes_repr(token: str, encoding: str) -> str:
    return repr(token.encode(encoding))


ENCODINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "JSON": lambda token: json.dumps({"value": token, "more": 'a "b"\n'}),
    "JSON in JSON": lambda token: json.dumps(json.dumps({"x": json.dumps([token, '"'])})),
    "\\u escapes": lambda token: "".join(f"\\u{ord(character):04x}" for character in token),
    "percent": lambda token: urllib.parse.quote(token, safe=""),
    "percent, each": lambda token: "".join(f"%{ord(character):02x}" for character in token),
    "HTML entities": lambda token: html.escape(token).replace("-", "&#45;").replace("a", "&#x61;"),
    "base64": lambda token: base64.b64encode(token.encode()).decode(),
    "base64, second offset": lambda token: base64.b64encode(f"x:{token}:y".encode()).decode(),
    "base64, third offset": lambda token: base64.b64encode(f'"{token}"'.encode()).decode(),
    "base64, URL-safe": lambda token: base64.urlsafe_b64encode(f"?>?{token}".encode()).decode().rstrip("="),
    "base64, wrapped": lambda token: base64.encodebytes(
        f"one two three, and a long line before {token}".encode()
    ).decode(),
    "base64, wrapped at 64": lambda token: "\n".join(
        textwrap.wrap(base64.b64encode(f"a first line, that is as long as one is: {token}".encode()).decode(), 64)
    ),
    "hex": lambda token: token.encode().hex(),
    "HEX": lambda token: token.encode().hex().upper(),
    "UTF-16 LE": lambda token: token.encode("utf-16-le").decode("latin-1"),
    "UTF-16 BE": lambda token: token.encode("utf-16-be").decode("latin-1"),
    "UTF-16 escapes": lambda token: _bytes_repr(token, "utf-16-le"),
    "UTF-16 base64": lambda token: base64.b64encode(token.encode("utf-16-le")).decode(),
    "colour in the middle": lambda token: f"{token[:5]}\x1b[0m\x1b[31;1m{token[5:11]}\x1b[39m{token[11:]}",
    "colour, escaped": lambda token: json.dumps(f"{token[:5]}\x1b[31m{token[5:]}"),
    "markup in the middle": lambda token: f"{token[:6]}<b></b>{token[6:9]}<!-- -->{token[9:]}",
}
