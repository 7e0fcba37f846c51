"""Kafka and the bus as a bridge really speaks to them, and both in memory for tests."""
