"""`bridge demo`: an embedded Kafka, a real Redis, a bridge, edges and a simulated city in one command."""
