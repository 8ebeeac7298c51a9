"""Searches a log group for lines, page by page."""

from collections.abc import Iterator
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from buddy_ops.aws.session import Target

if TYPE_CHECKING:
    from types_boto3_logs.type_defs import FilteredLogEventTypeDef


class TooManyPages(Exception):
    """An answer has more pages than were to be read."""


def search_log(
    target: Target,
    group: str,
    pattern: str,
    *,
    start: datetime,
    end: datetime,
    most_pages: int,
    stream_prefix: str = "",
) -> "Iterator[FilteredLogEventTypeDef]":
    """The lines of a log group that match a filter pattern.

    Args:
        end: this moment's lines are among them.
        most_pages: a page has at most 1 MB and 10,000 events.
        stream_prefix: how the names of the streams begin; empty: all streams.

    AWS: logs:FilterLogEvents, reads only.

    Raises:
        AwsFailed: AWS did not answer; NotFound: there is no such group.
        TooManyPages: after the lines of ``most_pages`` pages.
    """
    search = partial(
        target.client("logs").get_paginator("filter_log_events").paginate,
        logGroupName=group,
        filterPattern=pattern,
        startTime=round(start.timestamp() * 1000),
        endTime=round(end.timestamp() * 1000),
    )
    # AWS takes no empty prefix.
    pages = search(logStreamNamePrefix=stream_prefix) if stream_prefix else search()
    for number, page in enumerate(pages):
        if number == most_pages:
            raise TooManyPages
        yield from page["events"]


def try_search(target: Target, group: str) -> None:
    """Search a log group once, for one line at most.

    AWS: logs:FilterLogEvents, reads only.

    Raises:
        AwsFailed: AccessDenied: the caller may not; NotFound: there is no such group.
    """
    target.client("logs").filter_log_events(logGroupName=group, limit=1)
