"""Nothing here runs without the extra `service`."""

import pytest

pytest.importorskip("pynetdicom")
pytest.importorskip("prometheus_client")
pytest.importorskip("dicomweb_client")
