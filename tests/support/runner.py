"""Serve one WSGI application on a server that has no command line of its own.

Usage: python runner.py wsgiref|gevent-pywsgi 127.0.0.1 8000 module:app
"""

import sys


def gevent_pywsgi(host: str, port: int, target: str) -> None:
    # Patching has to come before the application's own imports, or its locks and sockets block.
    from gevent import monkey

    monkey.patch_all()
    from gevent.pywsgi import WSGIServer
    from werkzeug.utils import import_string

    WSGIServer((host, port), import_string(target)).serve_forever()


def wsgiref(host: str, port: int, target: str) -> None:
    from wsgiref.simple_server import make_server

    from werkzeug.utils import import_string

    make_server(host, port, import_string(target)).serve_forever()


if __name__ == "__main__":
    name, host, port, target = sys.argv[1:]
    {"gevent-pywsgi": gevent_pywsgi, "wsgiref": wsgiref}[name](host, int(port), target)
