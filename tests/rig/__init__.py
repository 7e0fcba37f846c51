"""Real parts, started and broken by tests: processes, Redis, Kafka, and waiting for what they do."""
