"""Models, corpora and byte-pair encoding."""
