"""Products with thin factors in the place of their weights."""
