"""Gates: who needs a layer, and how to run it for those alone."""
