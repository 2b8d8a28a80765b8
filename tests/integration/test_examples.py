"""Each example on a real server, started as its docstring says."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from support.servers import ROOT, Raw, connect, serve

from vento_wsgi import decode

EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))


def get(raw: Raw, path: str) -> bytes:
    assert raw.request("GET", path).status == 200
    body = raw.read_all()
    assert body.complete
    return body.data


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_says_how_it_is_run(name: str) -> None:
    text = (ROOT / "examples" / f"{name}.py").read_text()
    assert f"vento-wsgi run examples.{name}:app" in text
    assert text.endswith('if __name__ == "__main__":\n    app.run()\n')
    assert len(text.splitlines()) <= 40


def test_the_example_of_events_counts_to_five(tmp_path: Path) -> None:
    with (
        serve("gunicorn-StreamWorker", "examples.events:app", cwd=ROOT, tmp=tmp_path) as running,
        connect(running) as raw,
    ):
        events = [json.loads(e.data) for e in decode([get(raw, "/events")]) if e.data]
    assert [event["count"] for event in events] == [1, 2, 3, 4, 5]
    assert [event["time"] for event in events] == sorted(event["time"] for event in events)


def test_the_example_of_a_chat_answers_and_says_done(tmp_path: Path) -> None:
    question = json.dumps({"message": "hello"}).encode()
    with (
        serve("gunicorn-StreamWorker", "examples.chat:app", cwd=ROOT, tmp=tmp_path) as running,
        connect(running) as raw,
    ):
        raw.send(
            b"POST /ai/chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(question), question)
        )
        head = raw.read_head()
        assert head.headers["Content-Type"] == "text/event-stream"
        *words, last = [e.data for e in decode([raw.read_all().data]) if e.data is not None]
    assert last == "[DONE]"
    assert len([json.loads(word)["text"] for word in words if word]) > 1


def test_the_example_of_downloads_sends_a_file_and_one_that_is_made(tmp_path: Path) -> None:
    content = hashlib.sha512().digest() * 4096
    (tmp_path / "large-file.zip").write_bytes(content)
    with (
        serve(
            "gunicorn-StreamWorker",
            "examples.download:app",
            cwd=ROOT,
            tmp=tmp_path,
            options=["--chdir", str(tmp_path)],
        ) as running,
        connect(running) as raw,
    ):
        assert get(raw, "/download") == content
        rows = get(raw, "/squares.csv").decode()
    assert re.fullmatch(r"number,square\r\n(\d+,\d+\r\n){100000}", rows)
