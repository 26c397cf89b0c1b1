"""From systems and attacks to evidence: one record per image, robust accuracy with intervals, sanity checks."""
