"""Runs on disk: one folder for every seed."""
