"""The actors: what dramatiq calls. Each is a job's policy and one call of its rule.

Importing this package declares all of them on the current broker.
"""

from workers.actors import activities, customer_service, expiry, statistics, tasks

__all__ = ["activities", "customer_service", "expiry", "statistics", "tasks"]
