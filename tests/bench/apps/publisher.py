"""A process that publishes to the broker of $BENCH_BROKER as fast as it can.

It writes "ready", waits for the number of events on stdin, publishes them, and writes the
seconds of CPU time that they took. One event is published before, so that the log is open.
"""

import os
import time

from vento_wsgi import Broker

EVENT = "a headline of 60 characters, as a page of news may publish ~"


def main() -> None:
    broker = Broker(os.environ["BENCH_BROKER"])
    broker.publish("bench", EVENT)
    print("ready", flush=True)
    count = int(input())
    before = time.process_time()
    for _ in range(count):
        broker.publish("bench", EVENT)
    print(time.process_time() - before)


if __name__ == "__main__":
    main()
