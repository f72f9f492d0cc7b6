"""The one exception that commands turn into a message and exit status 2."""

from __future__ import annotations


class UserError(Exception):
    """Something a person can put right: the text names the value, what is allowed and what to do."""
