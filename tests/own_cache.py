"""A cache that remembers nothing but the programs, which take ten seconds to build and are the same for all."""

from __future__ import annotations

from pathlib import Path

from foundation.files import cache_home


def own_cache(folder: Path) -> str:
    """A new cache in ``folder``, as a value of XDG_CACHE_HOME."""
    built = cache_home() / "programs"
    built.mkdir(parents=True, exist_ok=True)
    own = folder / "cache" / cache_home().name
    own.mkdir(parents=True, exist_ok=True)
    if not (own / "programs").exists():
        (own / "programs").symlink_to(built)
    return str(own.parent)
