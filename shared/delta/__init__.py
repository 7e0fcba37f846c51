"""Delta codecs: a payload written as a change to its base."""
