"""``vento-wsgi top``: the open streams of a running server."""
