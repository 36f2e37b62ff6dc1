"""Updates compiled for a CPU or recorded for a GPU."""
