"""What makes the reductions of this package available inside other tools, one module for each; none is imported here."""
