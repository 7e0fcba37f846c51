"""The rules file: read, checked with every problem at once and its line, and compiled for the router."""
