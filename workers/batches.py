"""What a business rule returns: counts of what it changed, perhaps batch by batch."""

from collections.abc import Generator

Counts = dict[str, int]
"""How many of what were changed; it becomes the ``result`` of the run."""

Batches = Generator[Counts, None, Counts | None]
"""A rule of several transactions: each ``yield`` commits one batch, and the counts add up."""
