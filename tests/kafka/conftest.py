"""Gives the tests of this folder the fixture `broker`; nothing is imported from here."""

from tests.kafka.fixtures import broker

__all__ = ["broker"]
