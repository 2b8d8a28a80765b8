"""gunicorn's settings, the same for all applications."""

workers = 1
worker_connections = 110_000
keepalive = 75
control_socket_disable = True
