"""Django: a view that returns a string. There is no middleware and no database."""

from bench.apps import work
from django.conf import settings  # type: ignore[import-untyped]
from django.core.handlers.wsgi import WSGIHandler  # type: ignore[import-untyped]
from django.core.wsgi import get_wsgi_application  # type: ignore[import-untyped]
from django.http import HttpRequest, HttpResponse  # type: ignore[import-untyped]
from django.urls import path  # type: ignore[import-untyped]

settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="bench")


def hello(_request: HttpRequest) -> HttpResponse:
    return HttpResponse(work.HELLO)


urlpatterns = [path("hello", hello)]
app: WSGIHandler = get_wsgi_application()
