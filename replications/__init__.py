"""One folder per published result; each is found by its `rules.smk`."""
