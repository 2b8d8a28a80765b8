"""A Django application in one file, for the differential tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from django.conf import settings  # type: ignore[import-untyped]
from django.core.wsgi import get_wsgi_application  # type: ignore[import-untyped]
from django.http import (  # type: ignore[import-untyped]
    FileResponse,
    HttpResponse,
    JsonResponse,
    StreamingHttpResponse,
)
from django.urls import path  # type: ignore[import-untyped]

settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="of the tests")


def hello(_request: Any) -> Any:
    return HttpResponse("Hello, World!")


def stream(request: Any) -> Any:
    def numbers() -> Iterator[str]:
        for number in range(int(request.GET["items"])):
            yield f"{request.GET['word']} {number}\n"

    return StreamingHttpResponse(numbers(), content_type="text/plain")


def file(_request: Any) -> Any:
    opened = open(os.environ["FILE"], "rb")  # noqa: SIM115 – the response closes it
    return FileResponse(opened, content_type="application/zip")


def form(request: Any) -> Any:
    said = {"args": request.GET, "form": dict(request.POST)}
    return JsonResponse(said, json_dumps_params={"separators": (",", ":")})


def upload(request: Any) -> Any:
    return HttpResponse(str(len(request.body)))


def fail(_request: Any) -> Any:
    raise RuntimeError("broken")


def fail_later(_request: Any) -> Any:
    def items() -> Iterator[str]:
        yield "an item\n"
        raise RuntimeError("broken")

    return StreamingHttpResponse(items(), content_type="text/plain")


def none(_request: Any) -> Any:
    return HttpResponse(status=204)


urlpatterns = [
    path("", hello),
    path("stream", stream),
    path("file", file),
    path("form", form),
    path("upload", upload),
    path("fail", fail),
    path("fail-later", fail_later),
    path("none", none),
]

app = get_wsgi_application()
