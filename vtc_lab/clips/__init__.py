"""Reading and sampling videos, each in a process of its own, so that no file can hang the caller."""
