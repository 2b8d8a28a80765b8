"""An event log in a SQLite file, for all processes of one machine."""
