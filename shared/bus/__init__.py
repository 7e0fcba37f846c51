"""The bus: its layout, the atomic publish, and the clients that speak to it."""
