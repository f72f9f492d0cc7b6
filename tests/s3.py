"""An S3 server of this machine, for tests."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def s3_server() -> Iterator[str]:
    """The URL of a folder in a bucket; the credentials lie in the environment."""
    server = pytest.importorskip("moto.server", reason="moto is not installed")
    from pyarrow.fs import FileSystem

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        started = server.ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
        started.start()
        options = f"endpoint_override=http://127.0.0.1:{port}&region=us-east-1"
        FileSystem.from_uri(f"s3://bucket?{options}&allow_bucket_creation=true")[0].create_dir("bucket")
        yield f"s3://bucket/a%20sweep?{options}"
        started.stop()
