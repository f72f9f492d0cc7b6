"""Looks for blobs that harm the loader: a coverage-guided fuzzer under sanitizers, on this machine's own processor."""
