"""Policies as C: a folder that any C99 compiler builds, and the same policy loaded back into Python."""
