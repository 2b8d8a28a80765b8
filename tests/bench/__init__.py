"""The benchmark: CPU time and memory that servers need for the same work.

    make bench
    make bench ROWS=two,tokens ONLY=raw,ours,bun RUNS=3 SCALE=0.1

A figure is the CPU time of the server's processes (all threads, user and kernel mode) for one
unit of work, or the memory of all processes of a server. It is the median of several rounds. In
a round the contenders run one after the other. Each one is started anew, is warmed up, and is
alone on one core; the client has another core. A ratio is the median of the ratios of the rounds.
The client checks every response, so that a server cannot win by sending something else.

Stock gunicorn and StreamWorker run in one environment, so both have gunicorn's C parser
(gunicorn_h1c) where it can be installed. The report says who loaded it.

    peers.py         installs servers and packages
    contenders.py    the servers and applications that are compared, and how each one is started
    server.py        a running contender: its core, CPU time and memory
    redis.py         a Redis server for the contenders that need one
    machine.py       the cores, and whether other programs were busy
    client.py        requests on kept-alive connections
    ticks.py         many slow streams; download.py: a file
    subscribers.py   many streams of the same events
    figures.py       what a row and a figure are
    measure.py       the rows; fanout.py: those of events; publish.py: that of publishers
    report.py        medians, ratios, targets, as Markdown and JSON; picture.py: the bars
    apps/            the same application for each contender
"""
