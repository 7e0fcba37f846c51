"""The bridge: takes records out of Kafka, turns them into publications and pushes them to the bus."""
