"""The bus that an edge really speaks to, and one in memory for tests."""
