"""Broker: topics that reach every worker and every machine, with replay.

broker = Broker("sqlite:///events.db")
broker.publish("sports", {"goal": 1})
for event in broker.subscribe("sports", below="world"): …
"""

from .broker import Broker
from .inbox import Lagged
from .log import Log
from .subscription import Subscription

__all__ = ["Broker", "Lagged", "Log", "Subscription"]
