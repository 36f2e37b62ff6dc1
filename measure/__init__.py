"""What a policy is worth and what it costs."""
