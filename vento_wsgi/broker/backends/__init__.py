"""The event logs that a Broker can keep its events in: one protocol, event_log.EventLog."""
