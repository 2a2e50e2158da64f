"""A transfer over a source that gives up: what has come stays."""

import hashlib

import pytest

from featurestore.errors import Conflict
from featurestore.remote.transfer import Allowance, Transfer


class Busy:
    """Sends nothing more: the service has too much to do, for longer than we wait."""

    def stream(self, path, *, start=0, etag=None):
        raise Conflict("too much to do")


def test_a_beginning_outlives_a_service_with_too_much_to_do(tmp_path):
    digest = hashlib.sha256(b"whole").hexdigest()
    begun = tmp_path / f"{digest}.part"
    begun.write_bytes(b"who")
    transfer = Transfer(Busy(), tmp_path, allowance=Allowance(5, subject="photos"))
    with pytest.raises(Conflict, match="too much to do"):
        transfer.fetch({digest: "/v1/x"}, jobs=1)
    assert begun.read_bytes() == b"who"
