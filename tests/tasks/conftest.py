"""What several files of these tests share."""

import pytest


@pytest.fixture(scope="module")
def own_home(tmp_path_factory):
    """A home, and with it a store, of the file's own, whatever the environment says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HGT_HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield
