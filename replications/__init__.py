"""One folder per published result; each is found by its `rules.smk`."""

import common as common  # before all else: it says how to import
