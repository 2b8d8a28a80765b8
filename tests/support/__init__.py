"""What the tests share: servers, clients, logs and proxies that really run."""
