"""Decisions without I/O: records, routing, the delta chain, checkpoints. No Kafka, no Redis, no clock of its own."""
