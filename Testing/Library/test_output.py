"""In what form cases come: voxels, labels, variety, type; the same case whatever the form."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import nibabel
import numpy as np
import pytest
from starting import FIRST

from GEDGANLib.commands.main import main
from GEDGANLib.errors import InputError
from GEDGANLib.exchange.nnunet import voxels_to_write
from GEDGANLib.networks.build import build_generator
from GEDGANLib.synthesis.model_file import load_model, save_model
from GEDGANLib.synthesis.output import grid_of_spacing, original_grid, refuse_huge, to_grid, working_grid
from GEDGANLib.synthesis.synthesizer import Form, Synthesizer, most_probable
from GEDGANLib.volumes import pictures
from GEDGANLib.volumes.geometry import centre_of, spacing_of
from GEDGANLib.volumes.measures import measure, piece_sizes, usual_pieces


@pytest.fixture(scope="module")
def model(trained_model):
    return load_model(trained_model)


def test_other_voxels_show_the_same_case_in_the_same_place(model):
    plain = Synthesizer(model).draw(1, 0)[0]
    grid = grid_of_spacing(model.plan, [4.5])
    fine = Synthesizer(model, Form(grid)).draw(1, 0)[0]
    np.testing.assert_allclose(spacing_of(fine.affine), 4.5)
    np.testing.assert_allclose(
        centre_of(fine.affine, fine.labels.shape), centre_of(plain.affine, plain.labels.shape), atol=1e-6
    )
    volumes = [measure(case).volumes for case in (plain, fine)]
    for name, volume in volumes[0].items():
        assert volumes[1][name] == pytest.approx(volume, rel=0.1)
    # Halves of voxels, block by block, are the voxel they came from, but for the interpolation between them.
    blocks = fine.image[0, :32, :48, :32].reshape(16, 2, 24, 2, 16, 2).mean((1, 3, 5))
    assert np.corrcoef(blocks.ravel(), plain.image[0].ravel())[0, 1] > 0.97


def test_original_voxels_are_the_median_of_the_training_scans(model, trained_folder):
    grid = original_grid(model.plan)
    scan = nibabel.load(next((trained_folder / "imagesTr").iterdir()))
    assert grid.shape == scan.shape
    np.testing.assert_allclose(spacing_of(grid.affine), spacing_of(scan.affine), atol=1e-4)


def test_kept_labels_are_numbered_anew_and_the_others_background(model):
    whole = Synthesizer(model).draw(2, 0)[0]
    part = Synthesizer(model, Form(labels=["white matter"])).draw(2, 0)[0]
    assert [(label.index, label.name) for label in part.label_table] == [(1, "white matter")]
    np.testing.assert_array_equal(part.labels, whole.labels == 2)
    with pytest.raises(InputError, match=r"no label bone; it has grey matter, white matter"):
        Synthesizer(model, Form(labels=["bone"]))


def test_truncation_runs_from_one_typical_case_to_more_variety(model):
    def spread(truncation: float) -> float:
        cases = Synthesizer(model, Form(truncation=truncation)).cases(6, seed=3)
        return float(np.stack([case.image for case in cases]).var(0).mean())

    spreads = [spread(truncation) for truncation in (0.0, 0.5, 1.0, 1.5)]
    assert spreads[0] < 1e-6 and spreads == sorted(spreads) and spreads[2] > 0


def test_what_is_drawn_alone_is_what_is_drawn_among_many(model):
    synthesizer = Synthesizer(model)
    many = list(synthesizer.cases(3, seed=4))
    case, working = synthesizer.draw(4, 2)
    np.testing.assert_array_equal(case.image, many[2].image)
    np.testing.assert_array_equal(working[-1], case.labels)
    assert case.provenance == many[2].provenance and len(case.provenance["latent"]) == model.plan.networks.latent_size


def test_the_command_writes_the_form_asked_for_and_where_it_came_from(trained_model, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["synthesize", str(trained_model), "-n", "2", "-o", str(out), "--spacing", "6", "--labels", "grey matter"]
    assert main([*command, "--truncation", "0.5", "--float"]) == 0
    image = nibabel.load(out / "imagesTr" / "synthetic_0_0000_0000.nii.gz")
    np.testing.assert_allclose(image.header.get_zooms(), 6, atol=1e-5)
    assert image.get_data_dtype() == np.float32
    assert json.loads((out / "dataset.json").read_text())["labels"] == {"background": 0, "grey matter": 1}
    origin = json.loads((out / "provenance.json").read_text())["synthetic_0_0000"]
    assert origin["truncation"] == 0.5 and origin["model_digest"] and origin["seed"] == 0
    assert main(["synthesize", str(trained_model), "-o", str(tmp_path / "x"), "--original", "--spacing", "3"]) == 2
    assert "exclude each other" in capsys.readouterr().err and not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "values, wanted, kind",
    [([0, 255], "uint8", np.uint8), ([0, 256], "uint8", np.int16), ([-1000, 3000], "int16", np.int16),
     ([0, 60000], "int16", np.uint16), ([-1, 1e6], "int16", np.int32), ([0, 1e12], "int16", np.float32),
     ([0, 1], "uint16", np.uint16), ([0, 1], "", np.float32)],
)  # fmt: skip
def test_intensities_keep_their_type_or_one_that_holds_them(values, wanted, kind):
    written = voxels_to_write(np.array(values, np.float32), wanted)
    assert written.dtype == kind
    np.testing.assert_allclose(written, values)


def test_the_most_probable_label_is_argmaxs():
    probabilities = np.random.default_rng(0).integers(0, 4, (5, 6, 7, 8)).astype(np.float32)
    np.testing.assert_array_equal(most_probable(probabilities), probabilities.argmax(0))


@pytest.mark.parametrize(
    ("counts", "usual"),
    [
        ([1] * 23 + [0], (1, 1)),
        ([0, 0], (0, 0)),
        ([1, 2, 1, 1], (1, 2)),
        ([*[1] * 99, 7], (1, 1)),
        ([3, 9, 30], (3, 30)),
    ],
)
def test_how_many_pieces_are_usual_goes_by_the_cases_that_have_the_label(counts, usual):
    assert usual_pieces(counts) == usual


def test_pieces_are_counted_and_speckle_is_not_one():
    mask = np.zeros((10, 10, 10), bool)
    mask[1:5, 1:5, 1:5] = True
    mask[5, 5, 5] = True  # touches by a corner
    mask[8, 8, 8] = True
    np.testing.assert_array_equal(piece_sizes(mask), [65, 1])


def test_a_thousand_cases_take_no_more_memory_than_ten(trained_model):
    """Measured where memory is: the largest array that lives while cases go by."""
    import tracemalloc

    synthesizer = Synthesizer(load_model(trained_model))

    def peak(count: int) -> int:
        tracemalloc.start()
        for _ in synthesizer.cases(count):
            pass
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(2)
    assert peak(60) < 1.3 * peak(6)


def test_a_header_says_what_a_model_is_without_reading_its_weights(trained_model, tmp_path):
    from GEDGANLib.errors import InputError
    from GEDGANLib.synthesis.model_file import load_model, read_header

    plan, about = read_header(trained_model)
    model = load_model(trained_model)
    assert plan == model.plan and about == model.about
    content = trained_model.read_bytes()
    wrong = tmp_path / "wrong.safetensors"
    for bytes_there in (b"", b"no model", content[:200], b"\xff" * 64, content[:8] + b"[]" + content[10:]):
        wrong.write_bytes(bytes_there)
        with pytest.raises(InputError, match="is not a model"):
            read_header(wrong)
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(InputError):
            read_header(path)


def test_cases_have_the_type_of_the_scans(tmp_path):
    import nibabel

    from GEDGANLib.exchange.nnunet import write_dataset
    from GEDGANLib.volumes.cohort import make_case

    cases = [make_case(index, 0, (16, 24, 16), 9.0) for index in range(3)]
    low, high = min(case.image.min() for case in cases), max(case.image.max() for case in cases)
    cases = [replace(case, image=np.round((case.image - low) / (high - low) * 255)) for case in cases]
    write_dataset(tmp_path / "data", cases, "scans of eight bits", "uint8")
    run = tmp_path / "run"
    assert main([*FIRST, str(tmp_path / "data"), "-o", str(run), "--steps", "1", "--device", "cpu"]) == 0
    assert main(["synthesize", str(run / "model.safetensors"), "-n", "1", "-o", str(tmp_path / "out")]) == 0
    for folder in ("data", "out"):
        image = nibabel.load(next((tmp_path / folder / "imagesTr").iterdir()))
        assert image.get_data_dtype() == np.uint8


def test_real_cases_are_shown_only_when_they_are_asked_for(trained_model, cohort_folder, tmp_path, monkeypatch):
    """What is made lies in a folder that people give away."""
    sheets = []
    monkeypatch.setattr(
        pictures, "contact_sheet", lambda path, rows, title: sheets.append(([r[0] for r in rows], title))
    )
    command = ["synthesize", str(trained_model), "-n", "1", "-o"]
    assert main([*command, str(tmp_path / "alone")]) == 0
    assert main([*command, str(tmp_path / "beside"), "--beside", str(cohort_folder)]) == 0
    assert [names for names, _ in sheets] == [["synthesized"], ["data", "synthesized"]]
    assert sheets[0][1].startswith("synthesized, not patients") and sheets[1][1].startswith(
        "Above: data of data. Below: synthesized"
    )


def test_voxels_that_no_memory_holds_are_refused(trained_model, tmp_path, capsys):
    command = ["synthesize", str(trained_model), "-n", "1", "-o", str(tmp_path / "out"), "--spacing"]
    assert main([*command, "0.02", "0.02", "2"]) == 2
    said = capsys.readouterr().err
    assert "GB are free" in said and not (tmp_path / "out").exists()
    fits = float(re.search(r"larger voxels: ([\d.]+) mm", said)[1])
    refuse_huge(grid_of_spacing(load_model(trained_model).plan, [1.05 * fits]), load_model(trained_model).plan)
    assert main([*command, str(fits / 2)]) == 2


@pytest.mark.parametrize(("variety", "told"), [(0.03, True), (0.8, False)])
def test_a_model_whose_cases_are_all_alike_says_so(small_plan, tmp_path, capsys, variety, told):
    path = tmp_path / "model.safetensors"
    save_model(path, build_generator(small_plan), small_plan, {"variety": variety, "steps": 60})
    assert main(["synthesize", str(path), "-n", "1", "-o", str(tmp_path / "cases")]) == 0
    assert main(["export", str(path), "--to", "monai-bundle", "-o", str(tmp_path / "bundle")]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("hardly differ from each other (3% of the variety") == 2 * told


def test_a_case_of_the_same_voxels_is_cut_out_and_not_blurred(small_plan):
    shape = tuple(side - 3 for side in small_plan.grid.shape)  # half a voxel aside about the centre
    plan = replace(
        small_plan, data={**small_plan.data, "median_shape": shape, "median_spacing": small_plan.grid.spacing}
    )
    output = np.random.default_rng(0).random((1, *plan.grid.shape), np.float32)
    cut = to_grid(output, 1, working_grid(plan), original_grid(plan))
    places = [[np.abs(output[0][tuple(slice(a, a + n) for a, n in zip(start, shape))] - cut[0]).max() < 1e-4]
              for start in np.ndindex(4, 4, 4)]  # fmt: skip
    assert sum(map(any, places)) == 1
