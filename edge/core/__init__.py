"""Decisions without I/O: protocol, hub, streams, recovery, limits. No sockets, no asyncio, no clock of its own."""
