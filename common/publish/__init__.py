"""Report, site, paper, cost, provenance: what readers see of a run."""
