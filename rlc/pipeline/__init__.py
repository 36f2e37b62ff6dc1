"""One job: train, compress, export, evaluate, record."""
