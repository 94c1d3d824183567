from __future__ import annotations

import pytest
from weights_zoo import Zoo, make_zoo


@pytest.fixture(scope="session")
def zoo() -> Zoo:
    return make_zoo()
