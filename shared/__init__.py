"""What bridge, edge, relay and clients all speak: channels, publications, the bus's wire format and delta codecs."""
