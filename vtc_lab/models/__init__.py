"""Everything that turns frames into tokens, and tokens into answers."""
