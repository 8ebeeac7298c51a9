"""Secrets in pictures: in the texts that a PNG carries, or in the bytes of another picture."""

import base64
import binascii
import re
import zlib
from collections.abc import Callable, Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"eXIf")
PRINTABLE = re.compile(rb"[\t\n\r -~\x80-\xff]{6,}|(?:[ -~]\0){6,}|(?:\0[ -~]){6,}")
IN_PAGE = re.compile(r"(data:image/[a-z+.-]{1,20};base64,[A-Za-z0-9+/=]*)")
LARGEST_TEXT = 1_000_000
"""Bytes of a compressed text that are read; what has more is dropped."""


def clean(encoded: str, is_clean: Callable[[str], bool]) -> str:
    """A picture in base64 without the texts that have a secret in them; empty where its bytes have one elsewhere.

    A picture without a secret comes back as it is, character for character.
    """
    try:
        content = base64.b64decode(encoded)
    except (binascii.Error, ValueError):
        return ""  # no picture at all
    if not content.startswith(SIGNATURE):
        if _bytes_are_clean(content, is_clean):
            return encoded
        return ""
    kept = []
    end = len(SIGNATURE)
    for kind, begin, end in _chunks(content):
        data = content[begin + 8 : end - 4]
        if kind not in TEXTS or _text_is_clean(kind, data, is_clean):
            kept.append(content[begin:end])
    whole = SIGNATURE + b"".join(kept)
    # What follows the picture's end is no part of it.
    if _bytes_are_clean(content[end:], is_clean):
        whole += content[end:]
    if whole == content:
        return encoded
    return base64.b64encode(whole).decode()


def _chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Each chunk of a PNG: its kind, where it begins, and where it ends."""
    place = len(SIGNATURE)
    while place + 12 <= len(content):
        # Each chunk has a length, a kind and a checksum of 4 bytes each, beside its data. Source: PNG specification.
        end = place + 12 + int.from_bytes(content[place : place + 4], "big")
        if end > len(content):
            return
        yield content[place + 4 : place + 8], place, end
        if content[place + 4 : place + 8] == b"IEND":
            return
        place = end


def _text_is_clean(kind: bytes, data: bytes, is_clean: Callable[[str], bool]) -> bool:
    texts = [data]
    packed = b""
    if kind == b"zTXt":
        # A keyword, a zero, the method, the compressed text.
        packed = data.partition(b"\0")[2][1:]
    elif kind == b"iTXt":
        # A keyword, a zero, whether it is compressed, the method, a language, a zero, a translation, a zero, the text.
        rest = data.partition(b"\0")[2]
        if rest[:1] == b"\1":
            packed = rest[2:].split(b"\0", 2)[-1]
    if packed:
        try:
            unpacked = zlib.decompressobj()
            texts.append(unpacked.decompress(packed, LARGEST_TEXT))
        except zlib.error:
            return False
        # What was not unpacked cannot be checked.
        if unpacked.unconsumed_tail:
            return False
    return all(_reads_clean(text, is_clean) for text in texts)


def _reads_clean(content: bytes, is_clean: Callable[[str], bool]) -> bool:
    return is_clean(content.decode("utf-8", "replace")) and is_clean(content.decode("latin-1"))


def _bytes_are_clean(content: bytes, is_clean: Callable[[str], bool]) -> bool:
    """Whether what is printable among bytes has no secret in it."""
    return is_clean("\n".join(match[0].decode("latin-1") for match in PRINTABLE.finditer(content)))
