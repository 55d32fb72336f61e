"""What a server answers to itself before it says that it is ready: what it was asked lately."""

from __future__ import annotations

from collections.abc import Sequence

from ouzel.events.log import EventLog
from ouzel.serving.wire import MAX_N, RecommendRequest, SimilarRequest

MOST_REQUESTS = 32
MOST_SIMILAR = 4


def warm_up_requests(
    log: EventLog, users: Sequence[str]
) -> list[RecommendRequest | SimilarRequest]:
    """Return the requests behind the lists that were shown last, one for each who asked.

    Where the log tells of too few, the known `users` stand in. One list is for nobody in
    particular, some are of items like those that were shown.

    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder, EventLog.open(Path(folder, "log")) as log:
    ...     asked = warm_up_requests(log, ["ada"])
    >>> [request.user_id for request in asked]
    [None, 'ada']
    """
    asked: dict[tuple[str | None, str | None], RecommendRequest] = {
        (None, None): RecommendRequest()
    }
    shown = [one for one in log.last_impressions(4 * MOST_REQUESTS) if one.item_ids]
    for one in shown:
        asked.setdefault(
            (one.user_id, one.session_id),
            RecommendRequest(
                user_id=one.user_id, session_id=one.session_id, n=min(len(one.item_ids), MAX_N)
            ),
        )
    for user_id in users:
        asked.setdefault((user_id, None), RecommendRequest(user_id=user_id))
    items = list(dict.fromkeys(one.item_ids[0] for one in shown))[:MOST_SIMILAR]
    return [
        *list(asked.values())[: MOST_REQUESTS - len(items)],
        *(SimilarRequest(item_id=item_id) for item_id in items),
    ]
