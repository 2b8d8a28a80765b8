"""Falcon: a resource sets the response's stream."""

from typing import Any

import falcon  # type: ignore[import-not-found,unused-ignore]
from bench.apps import work


class Two:
    def on_get(self, _request: Any, response: Any) -> None:
        response.content_type = "text/plain"
        response.stream = work.two()


app = falcon.App()
app.add_route("/two", Two())
