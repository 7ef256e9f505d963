"""Fixtures of all tests: small data sets of the embedded cohort, and a plan that trains in a second."""

from __future__ import annotations

import gc
import os
import shutil
from dataclasses import replace
from pathlib import Path

# As the command line does, before PyTorch starts its threads: they share the machine with whatever else runs.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

import numpy as np
import pytest
import torch
from hurried import hurry
from once import made_once
from starting import FIRST

from GEDGANLib.exchange.nnunet import write_dataset
from GEDGANLib.planning.choosing import make_plan
from GEDGANLib.planning.plan import Plan
from GEDGANLib.volumes.cohort import make_case
from GEDGANLib.volumes.dataset import find_dataset
from GEDGANLib.volumes.fingerprint import check_dataset
from GEDGANLib.volumes.pipeline import WorkingCase, load_working_cases

# Of two processes that run tests side by side each gets one core; so do the processes that they start, or sums would
# be rounded otherwise there than here.
THREADS = 1 if os.environ.get("PYTEST_XDIST_WORKER") else 2
os.environ["OMP_NUM_THREADS"] = str(THREADS)
torch.set_num_threads(THREADS)

hurry()

SMALL_SHAPE = (16, 24, 16)

LONG_LASTING = """
    test_segment test_evaluation test_panel test_aligning test_run test_buttons test_privacy test_repainting
    test_segmentation test_rescue test_steering test_worth test_journeys test_reviewed test_structures
    test_statistical test_editing test_align test_scene_changes test_parts test_team test_starting_from_a_model
    test_augment test_trainer test_files test_workers test_article test_conjugate test_alignment test_oddly_formed
    test_carrying test_interruption test_states test_atlas test_export test_variations test_dicom_segmentations
    test_quality test_round_trip test_plan test_explain test_agreement test_output test_worker test_modes
    test_faults test_on_the_fly test_prepared test_older_files test_gather test_recording test_twice test_set_up
    test_fused_field test_structure_tensor test_demo
""".split()  # noqa: SIM905
"""Modules of more than two seconds, the longest first: so they are begun, and ``make test-quick`` leaves them out."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: number for number, name in enumerate(LONG_LASTING)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))
    for item in items:
        if item.path.stem in rank:
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """What was imported stays: it need not be looked through whenever rubbish is collected."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def cohort_folder(tmp_path_factory) -> Path:
    """Six cases of the cohort as an nnU-Net data set, 16x24x16 voxels of 10 mm."""
    folder = tmp_path_factory.mktemp("cohort") / "data"
    write_dataset(folder, (make_case(i, 0, SMALL_SHAPE, 9.0) for i in range(6)), "test cohort", whole_numbers="int16")
    return folder


@pytest.fixture(scope="session")
def small_plan(cohort_folder) -> Plan:
    """The plan of ``cohort_folder`` for the CPU."""
    return make_plan(check_dataset(find_dataset(cohort_folder)), "cpu")


@pytest.fixture(scope="session")
def small_cases(cohort_folder, small_plan) -> list[WorkingCase]:
    """The cases of ``cohort_folder`` on the grid of ``small_plan``."""
    return list(load_working_cases(find_dataset(cohort_folder), small_plan))


@pytest.fixture
def data(cohort_folder, tmp_path) -> Path:
    """A copy of ``cohort_folder`` that a test may change."""
    folder = tmp_path / "data"
    shutil.copytree(cohort_folder, folder)
    return folder


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session", autouse=True)
def each_pair_is_aligned_once():
    """Reports compare the same few cases again and again; which of them are copies is asked of each two once."""
    from GEDGANLib.quality import alignment

    known, original = {}, alignment.aligned_distance

    def remembered(fixed: alignment.Picture, moving: alignment.Picture) -> float:
        pair = tuple((hash(each.voxels.tobytes()), each.voxels.shape, each.spacing) for each in (fixed, moving))
        if pair not in known:
            known[pair] = original(fixed, moving)
        return known[pair]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alignment, "aligned_distance", remembered)
        yield


def _shared(tmp_path_factory) -> Path:
    """A folder of this session, whichever of its processes asks."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


ALIGNED_CASES = 9


@pytest.fixture(scope="session")
def aligned_folder(tmp_path_factory) -> Path:
    """Cases of the cohort that ``aligned_run`` has aligned, the last one without a segmentation; only to be read."""
    folder = _shared(tmp_path_factory) / "aligned" / "data"
    with made_once(folder) as there:
        if not there:
            cases = [make_case(index, 0, SMALL_SHAPE, 9.0) for index in range(ALIGNED_CASES)]
            cases[-1] = replace(cases[-1], labels=None)
            write_dataset(folder, iter(cases), "cohort", whole_numbers="int16")
    return folder


@pytest.fixture(scope="session")
def aligned_run(aligned_folder) -> Path:
    """Their alignment; only to be read."""
    from GEDGANLib.commands.main import main

    run = aligned_folder.parent / "run"
    with made_once(run) as there:
        if not there:
            assert main(["align", str(aligned_folder), "-o", str(run), "--device", "cpu"]) == 0
    return run


TRAINED_CASES = 18


@pytest.fixture(scope="session")
def trained_folder(tmp_path_factory) -> Path:
    """Cases of the cohort of which the model of ``trained_model`` learned from the first :data:`TRAINED_CASES`."""
    folder = _shared(tmp_path_factory) / "trained" / "all"
    with made_once(folder) as there:
        if not there:
            cases = (make_case(i, 5, SMALL_SHAPE, 9.0) for i in range(TRAINED_CASES + 10))
            write_dataset(folder, cases, "test cohort", whole_numbers="int16")
    return folder


@pytest.fixture(scope="session")
def trained_model(trained_folder) -> Path:
    """A model that was trained for some seconds, just enough that its cases resemble the cohort."""
    from GEDGANLib.commands.main import main

    data, run = trained_folder.parent / "data", trained_folder.parent / "run"
    with made_once(run) as there:
        if not there:
            cases = (make_case(i, 5, SMALL_SHAPE, 9.0) for i in range(TRAINED_CASES))
            write_dataset(data, cases, "test cohort", whole_numbers="int16")
            assert main([*FIRST, str(data), "-o", str(run), "--steps", "110", "--device", "cpu"]) == 0
    return run / "model.safetensors"
