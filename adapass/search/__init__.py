"""The search: which choices of which families, decided on search data and measured latency."""
