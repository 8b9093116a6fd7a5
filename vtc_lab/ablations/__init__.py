"""A panel that runs ablations on Video-QA samples."""
