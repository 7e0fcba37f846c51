"""Byte pipes to clients: each turns publications into its own frames."""
