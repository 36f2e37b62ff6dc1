"""Networks with a leading axis of independent rows, their optimiser, distributions and normaliser."""
