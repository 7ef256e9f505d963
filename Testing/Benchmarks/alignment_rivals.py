"""The rivals of ``alignment.py``, run by a Python of their own that has antspyx and fireants: labels carried by them.

    python alignment_rivals.py METHOD THREADS CASES.npz RESULT.npz

``CASES.npz`` holds ``images`` (N, *grid) float32, ``labels`` (N, *grid) uint8, ``spacing`` (3,), ``sources`` and
``targets`` (indices). ``RESULT.npz`` gets ``carried`` (sources, targets, *grid), the labels of each source on each
target, and ``seconds``, of all registrations. Both are given the same threads.
"""

from __future__ import annotations

import os
import sys
import time

METHOD, THREADS, CASES, RESULT = sys.argv[1:]
for name in ("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = THREADS

import numpy as np  # noqa: E402


def syn(images, labels, spacing, sources, targets, kind="SyN"):
    """ANTs, ``ants.registration`` with its default levels, each source onto each target."""
    import ants

    volumes = [ants.from_numpy(image, spacing=spacing) for image in images]
    maps = [ants.from_numpy(label.astype(np.float32), spacing=spacing) for label in labels]
    carried, seconds = [], 0.0
    for source in sources:
        row = []
        for target in targets:
            start = time.perf_counter()
            found = ants.registration(volumes[target], volumes[source], kind)
            moved = ants.apply_transforms(
                volumes[target], maps[source], found["fwdtransforms"], interpolator="nearestNeighbor"
            )
            seconds += time.perf_counter() - start
            row.append(moved.numpy().astype(np.uint8))
            for path in {*found["fwdtransforms"], *found["invtransforms"]}:
                if os.path.exists(path):
                    os.unlink(path)
        carried.append(np.stack(row))
        print(f"{kind}: source {len(carried)} of {len(sources)}, {seconds:.0f} s", flush=True)
    return np.stack(carried), seconds


def syn_cc(images, labels, spacing, sources, targets):
    """The same with cross-correlation as its measure, and more levels: better, and slower."""
    return syn(images, labels, spacing, sources, targets, "SyNCC")


def syn_template(images, labels, spacing, sources, targets):
    """ANTs' own template of the sources (three iterations), and every source and target onto it by SyN."""
    import ants

    volumes = [ants.from_numpy(image, spacing=spacing) for image in images]
    start = time.perf_counter()
    template = ants.build_template(image_list=[volumes[source] for source in sources], iterations=3)
    print(f"syn template: made in {time.perf_counter() - start:.0f} s", flush=True)

    def onto(index):
        return ants.registration(template, volumes[index], "SyN")

    probabilities = [np.zeros(template.shape, np.float32) for _ in range(int(labels.max()) + 1)]
    for source in sources:
        found = onto(source)
        for label, total in enumerate(probabilities):
            share = ants.from_numpy((labels[source] == label).astype(np.float32), spacing=spacing)
            total += ants.apply_transforms(template, share, found["fwdtransforms"]).numpy()
    row = []
    for target in targets:
        found = onto(target)
        shares = []
        for total in probabilities:
            share = ants.new_image_like(template, total)
            inverse = [path.endswith(".mat") for path in found["invtransforms"]]
            shares.append(
                ants.apply_transforms(volumes[target], share, found["invtransforms"], whichtoinvert=inverse).numpy()
            )
        row.append(np.argmax(shares, 0).astype(np.uint8))
    return np.stack(row)[None], time.perf_counter() - start


def fireants(images, labels, spacing, sources, targets):
    """FireANTs on the CPU: moments, affine and its greedy registration, at its defaults, all targets in a batch."""
    import logging

    import SimpleITK
    import torch
    from fireants.io.image import BatchedImages, Image
    from fireants.registration.affine import AffineRegistration
    from fireants.registration.greedy import GreedyRegistration

    logging.disable(logging.WARNING)
    torch.set_num_threads(int(THREADS))
    # It wants 32 voxels along every axis at its finest level.
    shape = images.shape[1:]
    ends = [((32 - side + 1) // 2, (32 - side) // 2) if side < 32 else (0, 0) for side in shape]
    images, labels = (np.pad(arrays, [(0, 0), *ends], mode="edge") for arrays in (images, labels))
    inner = tuple(slice(first, first + side) for (first, _), side in zip(ends, shape))

    def volume(array):
        image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.T))
        image.SetSpacing([float(side) for side in spacing])
        return Image(image, device="cpu")

    carried, seconds = [], 0.0
    scales, steps = [4, 2, 1], [200, 100, 50]
    for source in sources:
        start = time.perf_counter()
        fixed = BatchedImages([volume(images[target]) for target in targets])
        moving = BatchedImages([volume(images[source]) for _ in targets])
        first = AffineRegistration(
            scales, steps, fixed, moving, optimizer="Adam", optimizer_lr=3e-3, progress_bar=False
        )
        first.optimize()
        second = GreedyRegistration(
            scales, steps, fixed, moving, cc_kernel_size=5, init_affine=first.get_affine_matrix().detach(),
            progress_bar=False,
        )  # fmt: skip
        second.optimize()
        shares = []
        for label in range(int(labels.max()) + 1):
            share = BatchedImages([volume((labels[source] == label).astype(np.float32)) for _ in targets])
            shares.append(second.evaluate(fixed, share).detach().numpy()[:, 0])
        seconds += time.perf_counter() - start
        found = np.argmax(shares, 0).astype(np.uint8).transpose(0, 3, 2, 1)
        carried.append(found[(slice(None), *inner)])
        print(f"fireants: source {len(carried)} of {len(sources)}, {seconds:.0f} s", flush=True)
    return np.stack(carried), seconds


if __name__ == "__main__":
    data = np.load(CASES)
    spacing = [float(side) for side in data["spacing"]]
    method = {"syn": syn, "syn cc": syn_cc, "syn template": syn_template, "fireants": fireants}[METHOD]
    # Air is 0: some of them begin at the centre of mass.
    carried, seconds = method(data["images"] + 1, data["labels"], spacing, list(data["sources"]), list(data["targets"]))
    np.savez_compressed(RESULT, carried=carried, seconds=seconds)
