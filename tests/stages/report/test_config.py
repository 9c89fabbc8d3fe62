import pytest
from pydantic import ValidationError

from stages.report.config import ReportConfig


def test_config_defaults_know_no_truth():
    config = ReportConfig()
    assert (config.truth, config.gallery) == (None, 24)


@pytest.mark.parametrize("gallery", [-1, 201, "24"])
def test_config_gallery_out_of_range_or_type_is_refused(gallery):
    with pytest.raises(ValidationError, match="gallery"):
        ReportConfig(gallery=gallery)


def test_config_unknown_key_is_refused():
    with pytest.raises(ValidationError, match="titel"):
        ReportConfig(titel="x")
