"""Looks for blobs that harm the loader (a coverage-guided fuzzer), and for networks that its kernels compute differently."""
