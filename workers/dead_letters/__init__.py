"""Dead letters: look at them, send them again, drop them.

A message is dead-lettered when its run has no attempts left, when its retry could not be published,
or when it was not ours to begin with. With RabbitMQ it then lies in ``<queue>.XQ``, for 7 days
(`queues`); the in-process broker keeps nothing but the ledger's row (`ledger`).
"""
