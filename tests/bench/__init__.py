"""Benchmarks: the CPU time that servers take for the work of DESIGN.md, section 4.

    make bench
    make bench ROWS=two,tokens ONLY=raw,ours,bun RUNS=3 SCALE=0.1

Each figure is CPU time of the processes that serve, of all their threads, in user and kernel
mode, for each unit of work, or memory of all processes of a server. It is the median of several
rounds; within a round the contenders come one after the other, each afresh, warmed up, alone on
one core, with the client on another. A ratio is the median of the ratios within the rounds. The
client checks each response, so that nobody is fast by sending something else.

    peers.py         installs who is compared
    contenders.py    who is compared, and how each is started
    server.py        a running contender: its core, its CPU time
    redis.py         Redis, for those who need one
    machine.py       whose core is which, and whether others were at work
    client.py        requests on kept-alive connections
    ticks.py         many slow streams; download.py: a file
    subscribers.py   many streams of the same events, and who publishes them
    figures.py       what a row is, and a figure of it
    measure.py       the rows: what is asked of a server, and how much of it; fanout.py: of events
    report.py        medians, ratios, targets; Markdown and JSON; picture.py: the bars
    apps/            the same application for each contender
"""
