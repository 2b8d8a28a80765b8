"""The same streams as the responses of other frameworks. Each module needs its framework."""
