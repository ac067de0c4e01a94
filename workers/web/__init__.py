"""The operations page, with ``/metrics``, ``/healthz`` and ``/readyz``, on ``$PORT``.

Served by ``python -m workers web``, and within ``python -m workers run``. It reads the ledger, the
queues and the schedule, and acts in the ways that the commands do: a run now, a dead letter again.
Nothing that the service guarantees depends on it.
"""
