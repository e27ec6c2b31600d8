"""Lets the tests in folders below find the helpers in this one."""
