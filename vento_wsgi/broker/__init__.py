"""Broker: topics that reach every worker and every machine, with replay.

broker = Broker("sqlite:///events.db")
broker.publish("sports", {"goal": 1})
for event in broker.subscribe("sports", below="world"): …
"""

from .backends.event_log import EventLog
from .broker import Broker
from .queue import Lagged
from .subscription import Subscription

__all__ = ["Broker", "EventLog", "Lagged", "Subscription"]
