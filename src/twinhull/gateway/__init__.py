"""The gateway: HAProxy, configured from routes and driven through its runtime API."""
