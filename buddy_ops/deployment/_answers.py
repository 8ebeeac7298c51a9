"""What is wrong with a function's answer to a smoke test, by the expectations in the environment's file."""

import json
import re
from base64 import b64decode
from collections.abc import Mapping

import jmespath
from jmespath.exceptions import JMESPathError

from buddy_ops.core.documents import parse_json
from buddy_ops.core.settings import EventTest, Expectation

SHOWN = 200
"""Characters of a value that a report shows."""


def trouble(test: EventTest, answer: object) -> str | None:
    """The first expectation that an answer does not meet, in words; None if it meets all.

    Args:
        answer: the function's answer, as its JSON says.
    """
    if test.status is not None:
        status = None
        if isinstance(answer, Mapping):
            status = answer.get("statusCode")
        if status != test.status:
            return f"its status is {_shown(status)} instead of {test.status}"
    document = _with_parsed_body(answer)
    unmet = (_unmet(expectation, document) for expectation in test.expect)
    return next(filter(None, unmet), None)


def _unmet(expectation: Expectation, document: object) -> str | None:
    try:
        found = jmespath.search(expectation.path, document)
    except JMESPathError as error:
        # A function of JMESPath was given a value of a type that it does not take.
        return f"{expectation.path} cannot be read in the answer: {error}"
    if expectation.absent:
        met = found is None
        wanted = "; it must be absent"
    elif expectation.contains is not None:
        met = isinstance(found, str | list) and expectation.contains in found
        wanted = f"; it must contain {_shown(expectation.contains)}"
    elif expectation.matches is not None:
        met = isinstance(found, str) and re.search(expectation.matches, found) is not None
        wanted = f"; it must match {expectation.matches}"
    else:
        met = _same(found, expectation.equals)
        wanted = f" instead of {_shown(expectation.equals)}"
    if met:
        return None
    return f"{expectation.path} is {_shown(found)}{wanted}"


def _same(found: object, wanted: object) -> bool:
    """Whether two JSON values are equal. To Python, but not to JSON, true equals 1."""
    return found == wanted and isinstance(found, bool) == isinstance(wanted, bool)


def _with_parsed_body(answer: object) -> object:
    """The answer with ``body_json``, where its body is JSON text, as that of API Gateway, a function URL or ALB."""
    if not isinstance(answer, Mapping) or not isinstance(answer.get("body"), str):
        return answer
    try:
        body: str | bytes = answer["body"]
        # API Gateway's and ALB's form of a body that is not plain text.
        if answer.get("isBase64Encoded"):
            body = b64decode(body)
        return {**answer, "body_json": parse_json(body)}
    except ValueError:  # a page or an image
        return answer


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    if len(text) <= SHOWN:
        return text
    return f"{text[:SHOWN]}…"
