"""Fixtures of the deploy_arm tests."""

from profile_programs import marked

__all__ = ["marked"]
