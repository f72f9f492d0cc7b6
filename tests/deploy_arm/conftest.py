"""Fixtures of the deploy_arm tests."""

from tests.deploy_arm.profile_programs import marked

__all__ = ["marked"]
