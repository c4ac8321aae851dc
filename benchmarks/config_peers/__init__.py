"""One config of 40 fields with 6 components, as each peer writes it."""
