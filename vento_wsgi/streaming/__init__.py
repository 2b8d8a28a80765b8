"""The engine: a stream from its head to its ending, on any WSGI server."""
