"""Real servers on loopback for development, tests and benchmarks, without Docker.

A development tool: no service imports it, and it is in no wheel.
"""
