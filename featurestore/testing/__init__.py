"""Conformance suites, faulty disks and a tiny backbone: for tests of this package and of adapters.

Nothing outside tests imports it.
"""
