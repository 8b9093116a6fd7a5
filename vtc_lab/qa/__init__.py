"""The generated world, its questions, and reading of Video-QA samples."""
