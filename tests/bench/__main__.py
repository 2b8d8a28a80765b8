"""The command: installs what is missing, measures in rounds, writes the report."""

from __future__ import annotations

import argparse
import gc
import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .client import WrongResponse
from .contenders import CONTENDERS, Contender
from .fanout import MANY, MANY_COUNT
from .figures import Ask, Row
from .machine import BUSY, Waiting, cores, description, settle
from .measure import ROWS, make_file
from .peers import FAST, Peers
from .picture import picture
from .report import Results
from .server import ROOT, running


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    rows = tuple(row.name for row in ROWS)
    names = tuple(contender.name for contender in CONTENDERS)
    parser.add_argument("--rows", type=_some_of(rows), default=rows, help=", ".join(rows))
    parser.add_argument("--only", type=_some_of(names), default=names, help=", ".join(names))
    parser.add_argument("--runs", type=int, default=3, help="number of rounds")
    parser.add_argument("--scale", type=float, default=1.0, help="factor of the work")
    parser.add_argument("--home", type=Path, default=ROOT / ".venv", help="for installed peers")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench")
    return parser.parse_args()


def _some_of(allowed: Sequence[str]) -> Any:
    def names(text: str) -> tuple[str, ...]:
        asked = text.split(",")
        if wrong := [name for name in asked if name not in allowed]:
            raise argparse.ArgumentTypeError(f"{', '.join(wrong)}: not one of {', '.join(allowed)}")
        return tuple(asked)

    return names


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _install(peers: Peers, arguments: argparse.Namespace, results: Results) -> list[Contender]:
    there = []
    for contender in CONTENDERS:
        if contender.name not in arguments.only or not {*contender.rows} & {*arguments.rows}:
            continue
        try:
            contender.install(peers)
        except RuntimeError as error:
            _say(f"{contender.title} is left out: {error}")
            results.left_out[contender.name] = str(error)
        else:
            there.append(contender)
    return there


def _measure(
    row: Row, contender: Contender, peers: Peers, ask: Ask, core: int, results: Results
) -> str:
    try:
        with running(contender, peers, ask.file.parent, ask.file, core) as server:
            sample = row.measure(server, ask)
            if server.has_loaded(FAST):
                results.fast.add(contender.name)
    except (RuntimeError, WrongResponse, OSError) as error:
        results.drop(row.name, contender.name, str(error))
        return f"left out: {error}"
    results.add(row.name, contender.name, sample)
    return f"{row.main.show(sample[row.main.name])} {row.main.unit}"


def _rounds(
    arguments: argparse.Namespace, there: Sequence[Contender], peers: Peers, results: Results
) -> None:
    folder = arguments.out.absolute() / "run"
    folder.mkdir(parents=True, exist_ok=True)
    ask = Ask(arguments.scale, folder / "file")
    make_file(ask.file, arguments.scale)
    server_core, own_core = cores()
    settle(own_core)
    gc.disable()
    pairs = [
        (row, contender)
        for row in ROWS
        for contender in there
        if row.name in arguments.rows and row.name in contender.rows
    ]
    try:
        for turn in range(1, arguments.runs + 1):
            for row, contender in pairs:
                if turn > 1 and row.once:
                    continue
                if not results.dropped(row.name, contender.name):
                    said = _measure(row, contender, peers, ask, server_core, results)
                    _say(f"{turn}/{arguments.runs} {row.name:9}{contender.title:32}{said}")
                    gc.collect()
    finally:
        ask.file.unlink()


def _notes(
    arguments: argparse.Namespace, results: Results, waited: float, shared: bool
) -> Iterator[str]:
    yield description()
    once = ", ".join(row.name for row in ROWS if row.once)
    yield f"rounds: {arguments.runs} ({once}: 1)"
    if arguments.scale != 1:
        yield f"{arguments.scale:g} of the full amount of work"
    if results.fast:
        names = [contender.name for contender in CONTENDERS if contender.name in results.fast]
        yield f"the C parser {FAST} was there for stock gunicorn and StreamWorker alike"
        yield f"it was loaded by {', '.join(names)}"
    else:
        yield f"stock gunicorn and StreamWorker parsed in Python: {FAST} was not loaded"
    if waited > BUSY:
        yield f"other programs were busy: the client waited for its core {waited:.0%} of the time"
    if any(each.needs_redis for each in CONTENDERS if results.has(each.name)):
        yield "Redis ran on the client's core, and its CPU time is not counted"
    reached = results.figure("many", "ours", MANY[1])
    if reached is not None and reached < round(MANY_COUNT * arguments.scale):
        yield (
            f"this machine allows {reached:,.0f} connections to one process, "
            f"not {MANY_COUNT * arguments.scale:,.0f}"
        )
    if shared:
        yield "server and client shared a core"


def main() -> None:
    begun = time.monotonic()
    arguments = _arguments()
    results, peers = Results(), Peers(arguments.home.absolute())
    there = _install(peers, arguments, results)
    shared = len(set(cores())) == 1  # asked before this process is pinned to its core
    waiting = Waiting()
    _rounds(arguments, there, peers, results)
    notes = list(_notes(arguments, results, waiting.part(), shared))
    data = {
        "notes": notes,
        "runs": arguments.runs,
        "scale": arguments.scale,
        "versions": peers.versions,
        **results.json(),
    }
    (arguments.out / "bench.json").write_text(json.dumps(data, indent=2) + "\n", "utf-8")
    (arguments.out / "bench.svg").write_text(picture(results, "; ".join(notes)), "utf-8")
    versions = ", ".join(f"{name} {version}" for name, version in sorted(peers.versions.items()))
    print("\n\n".join((results.markdown(), f"{'; '.join(notes)}.", f"{versions}.")))
    minutes, seconds = divmod(round(time.monotonic() - begun), 60)
    _say(f"{arguments.out / 'bench.json'}, {arguments.out / 'bench.svg'}")
    _say(f"elapsed: {minutes} min {seconds} s")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()
