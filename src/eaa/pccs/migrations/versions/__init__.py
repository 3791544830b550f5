"""One step each, never edited once it is released."""
