"""Serving: settings for gunicorn, and what ``vento-wsgi run`` does."""
