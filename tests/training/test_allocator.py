import ctypes
import sys

import pytest
import torch

from counterpoint.training.train import keep_freed_memory


def test_the_process_lives_on() -> None:
    kept = keep_freed_memory()
    assert kept is keep_freed_memory()
    assert type(kept) is bool
    if sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        assert kept
    for megabytes in (1, 64, 1, 64):
        assert torch.ones(megabytes << 18).sum() == megabytes << 18


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())  # a libc that is not glibc
    assert keep_freed_memory() is False
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False
