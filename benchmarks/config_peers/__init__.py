"""A config with 40 fields and 6 components, for each config engine."""
