"""Reinforcement-learning algorithms on the seed axis; knows nothing of files, Hydra or compression."""
