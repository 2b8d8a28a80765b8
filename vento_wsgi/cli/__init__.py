"""The command line: ``vento-wsgi run``, ``routes``, ``doctor`` and ``top``."""

from __future__ import annotations

from .command_line import main

__all__ = ["main"]
