"""Reading and sampling videos, in a child process that no file can hang."""
