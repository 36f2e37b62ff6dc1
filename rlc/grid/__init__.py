"""Many jobs: launch, estimate, watch."""
