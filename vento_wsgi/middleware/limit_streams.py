"""limit_streams: how many streams may be open at once.

    app.use(limit_streams(per_worker=5000, per_client=6))
    router.get("/events", events, middleware=[limit_streams(per_client=2)])

A request beyond a limit is answered 503 with Retry-After, before its handler runs. Each use
counts for itself, the streams of one worker; a client is an address, so put werkzeug's ProxyFix
around the application if there is a proxy before it. Responses that are no streams hold their
place only while they are made.
"""

from __future__ import annotations

from werkzeug.exceptions import ServiceUnavailable
from werkzeug.wrappers import Response as WerkzeugResponse

from ..context import Context
from ..routing import Middleware, Next

__all__ = ["limit_streams"]

RETRY_AFTER = 5
"""Seconds until a refused client should try again."""


def limit_streams(
    *, per_worker: int | None = None, per_client: int | None = None, retry_after: int = RETRY_AFTER
) -> Middleware:
    """A middleware that refuses streams beyond `per_worker` in all and `per_client` an address.

    retry_after: seconds that the refusal says. Raises ValueError on a limit below 1.
    """
    for name, limit in (("per_worker", per_worker), ("per_client", per_client)):
        if limit is not None and limit < 1:
            raise ValueError(f"{name} is 1 or more, not {limit!r}")
    if per_worker is None and per_client is None:
        raise ValueError("limit_streams takes per_worker, per_client or both")
    everyone: set[object] = set()
    clients: dict[str, set[object]] = {}

    def limited(ctx: Context, next: Next) -> WerkzeugResponse:
        client = ctx.environ.get("REMOTE_ADDR", "")
        its = clients.setdefault(client, set())
        full = per_worker is not None and len(everyone) >= per_worker
        if full or (per_client is not None and len(its) >= per_client):
            if not its:
                clients.pop(client, None)
            raise ServiceUnavailable("Too many streams are open.", retry_after=retry_after)
        place = object()
        everyone.add(place)
        its.add(place)

        def leave() -> None:
            everyone.discard(place)
            its.discard(place)
            if not its:
                clients.pop(client, None)

        try:
            response = next()
        except BaseException:
            leave()
            raise
        if response.is_streamed:
            response.call_on_close(leave)
        else:
            leave()
        return response

    return limited
