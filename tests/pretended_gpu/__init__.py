"""A GPU for machines without one, as far as mistakes with devices go: see `device`."""
