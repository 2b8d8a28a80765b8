"""The event logs in which a Broker can keep its events: one protocol, event_log.EventLog."""
