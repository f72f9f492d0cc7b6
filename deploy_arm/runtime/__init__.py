"""The program and the shared library that run a blob."""
