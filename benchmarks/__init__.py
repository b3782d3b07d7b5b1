"""Measurements of this client beside its peers, on one machine, in one run."""
