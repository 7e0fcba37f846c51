"""Several processes that do the same work: the parent that keeps them going, the child's side, and what they report together."""
