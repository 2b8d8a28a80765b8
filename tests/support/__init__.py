"""What the tests share: servers, clients, event logs and proxies."""
