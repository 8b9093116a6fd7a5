"""Everything that turns frames into tokens."""

from vtc_lab.models.encoders import load_encoder

__all__ = ["load_encoder"]
