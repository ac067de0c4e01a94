"""How fast the jobs are, beside the loop one would write first and the best SQL there is.

``make bench`` runs it; `bench.cases` says what is measured, `bench.measure` how.
"""
