"""One test for each trap of dramatiq, periodiq, RabbitMQ and PostgreSQL that we step around."""
