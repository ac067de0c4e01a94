"""A live marketplace under faults, and an account of whether anything was lost or done twice.

``make chaos`` starts a RabbitMQ and a PostgreSQL of its own, schedulers, workers and people, and
does to them what nights do to a service: kills, restarts, cut connections, blocked publishers,
garbage. Then it stops, lets the service finish, and compares the database with what the chaos
itself knows to have ordered.
"""
