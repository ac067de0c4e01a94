"""Revisions, in plain SQL: what ran in production stays readable, whatever the models become."""
