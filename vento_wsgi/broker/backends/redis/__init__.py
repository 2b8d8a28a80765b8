"""An event log in a Redis stream, for all machines that reach the same Redis."""
