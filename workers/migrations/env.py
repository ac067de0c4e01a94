"""Run by Alembic for each command; `workers.schema` hands over the connection.

There is no URL here (it carries a password), and no logging configuration: that is the process'.
"""

from alembic import context

# No transaction is open on it yet, so this one is Alembic's: all revisions, or none.
context.configure(connection=context.config.attributes["connection"])
with context.begin_transaction():
    context.run_migrations()
