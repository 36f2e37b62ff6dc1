"""Entry points, configuration and runs on disk: the only package that knows Hydra, paths and W&B."""
