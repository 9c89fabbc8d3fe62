import pytest
import torch

from stages.models.threads import fixed_threads


def test_threads_are_fixed_inside_and_restored_after():
    before = torch.get_num_threads()
    with fixed_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_threads_are_restored_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(KeyError), fixed_threads(before + 1):
        raise KeyError
    assert torch.get_num_threads() == before
