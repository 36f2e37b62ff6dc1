"""Environments: what a trainer must know of one, how they are made and stepped."""
