"""The generated world: its scenes, its questions and where their evidence is."""
