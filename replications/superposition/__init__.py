"""Toy Models of Superposition (Elhage et al. 2022)."""
