"""A real one-node Kafka for the tests: see :mod:`tests.kafka.broker`."""
