"""Connections to Ray: sessions, addresses and tokens, the job server, and all uses of Ray's private API."""
