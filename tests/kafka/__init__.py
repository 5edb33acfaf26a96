"""The log on a real Kafka broker: see :mod:`stack.broker`."""
