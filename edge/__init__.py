"""The edge: holds the clients and delivers what bridges push. It never reads from Kafka."""
