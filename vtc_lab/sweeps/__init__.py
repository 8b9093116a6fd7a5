"""How a sweep is planned, done, kept and judged."""
