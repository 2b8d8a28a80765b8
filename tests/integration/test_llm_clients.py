"""Our streams read by the clients of OpenAI and Anthropic and by httpx-sse."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import anthropic
import httpx
import openai
import pytest
from apps.llm import WORDS
from httpx_sse import connect_sse
from support.fixtures import served
from support.servers import Running, serve

ANSWER = "".join(WORDS)


running = served("apps.llm:app", "gunicorn-StreamWorker", "gunicorn-gevent")


def url(running: Running, path: str) -> str:
    return f"http://{running.host}:{running.port}/{path}"


def of_openai(running: Running, model: str) -> Iterator[str]:
    with (
        openai.OpenAI(base_url=url(running, "openai"), api_key="none", max_retries=0) as client,
        client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "?"}], stream=True
        ) as chunks,
    ):
        for chunk in chunks:
            yield chunk.choices[0].delta.content or ""


def of_anthropic(running: Running, model: str) -> Iterator[str]:
    with (
        anthropic.Anthropic(
            base_url=url(running, "anthropic"), api_key="none", max_retries=0
        ) as client,
        client.messages.stream(
            model=model, max_tokens=9, messages=[{"role": "user", "content": "?"}]
        ) as stream,
    ):
        yield from stream.text_stream


def test_openai_reads_an_answer_with_heartbeats(running: Running) -> None:
    assert "".join(of_openai(running, "m")) == ANSWER


def test_anthropic_reads_an_answer_with_heartbeats(running: Running) -> None:
    assert "".join(of_anthropic(running, "m")) == ANSWER


def test_openai_tells_of_a_failure(running: Running) -> None:
    with pytest.raises(openai.APIError, match="The stream failed"):
        list(of_openai(running, "fails"))


def test_anthropic_tells_of_a_failure(running: Running) -> None:
    with pytest.raises(anthropic.APIStatusError, match="The stream failed"):
        list(of_anthropic(running, "fails"))


def test_httpx_sse_sees_nothing_but_events(running: Running) -> None:
    path = url(running, "openai/chat/completions")
    with (
        httpx.Client(trust_env=False, timeout=60) as http,
        connect_sse(http, "POST", path, json={"model": "m"}) as source,
    ):
        data = [event.json() if event.data != "[DONE]" else {} for event in source.iter_sse()]
    assert len(data) == len(WORDS) + 2


def test_a_reload_in_the_midst_of_an_answer_lets_it_finish(tmp_path: Path) -> None:
    with serve(
        "gunicorn-StreamWorker",
        "apps.llm:app",
        tmp=tmp_path,
        options=["--graceful-timeout=60"],
    ) as running:
        words = of_openai(running, "m")
        first = next(words)
        running.process.send_signal(signal.SIGHUP)
        assert first + "".join(words) == ANSWER
