"""What is known to be slow or wrong on CUDA is told, and half precision is tried before it is used."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from GEDGANLib import device
from GEDGANLib.device import half_precision_is_right, known_trouble, trouble_here
from GEDGANLib.planning import choosing as planning
from GEDGANLib.training.trainer import Trainer


@pytest.mark.parametrize(
    ("pytorch", "cudnn", "words"),
    [
        ("2.8.0", 91002, "large volumes wrongly"),
        ("2.9.0+cu128", 91002, "four times slower"),
        ("2.9.0", 92100, "four times slower"),
        ("2.9.1", 91300, "four times slower"),
        ("2.9.1", 92100, ""),
        ("2.8.0", 91400, "float32 wrongly"),
        ("2.10.0", 91400, ""),
        ("2.10.0+cu128", 91002, "built for CUDA 13"),
        ("2.10.0", 91501, ""),
        ("2.7.1", 90701, ""),
        ("2.11.0+cu130", 91900, ""),
        ("2.13.0a0+git", None, ""),
    ],
)
def test_versions_known_to_be_slow_or_wrong(pytorch: str, cudnn: int | None, words: str) -> None:
    told = known_trouble(pytorch, cudnn)
    assert len(told) == bool(words)
    assert all(words in sentence and pytorch in sentence and "Install PyTorch" in sentence for sentence in told)


def test_a_cpu_has_no_trouble_of_cuda(monkeypatch) -> None:
    assert trouble_here("cpu") == []
    monkeypatch.setattr(torch.version, "cuda", None)
    assert trouble_here("cuda") == []


def test_a_plan_says_so(monkeypatch, cohort_folder) -> None:
    from GEDGANLib.volumes.dataset import find_dataset
    from GEDGANLib.volumes.fingerprint import check_dataset

    monkeypatch.setattr(planning, "trouble_here", lambda kind: ["It is slow."] if kind == "cuda" else [])
    fingerprint = check_dataset(find_dataset(cohort_folder))
    assert planning.NOTE + "It is slow." in planning.make_plan(fingerprint, "cuda").reasons
    assert not any("slow" in reason for reason in planning.make_plan(fingerprint, "cpu").reasons)


def test_a_training_says_so(monkeypatch, small_plan, small_cases) -> None:
    from GEDGANLib.training import precision

    monkeypatch.setattr(precision, "trouble_here", lambda kind: ["It is slow."])
    assert Trainer(small_plan, small_cases, "cpu", 0).notes == ["It is slow."]


def test_half_precision_that_rounds_is_right_and_one_that_errs_is_not(monkeypatch) -> None:
    assert half_precision_is_right("cpu", torch.bfloat16)
    plain = functional.conv3d

    def wrong(x, weight, **options):
        result = plain(x, weight, **options)
        return result.flip(2) if x.dtype == torch.bfloat16 else result

    monkeypatch.setattr(functional, "conv3d", wrong)
    assert not half_precision_is_right("cpu", torch.bfloat16)


def test_memory_of_a_device_is_known() -> None:
    assert device.available_memory("cpu") > 1e8
