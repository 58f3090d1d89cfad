"""Which layer 8 bits damage, why, and what to do: the answer to a collapsed accuracy."""
