"""Formats of values and keys: each makes a `bridge.core.decoding.Decoder` of its settings. docs/formats.md shows them side by side."""
