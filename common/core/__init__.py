"""Ground floor: files, errors, settings, steps, metrics, statistics, claims and figures. Imports no other floor."""
