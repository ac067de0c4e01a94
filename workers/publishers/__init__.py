"""Where the relay publishes to: RabbitMQ, or the queues of this process. See `workers.relay`."""
