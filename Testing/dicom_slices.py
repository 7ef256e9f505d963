"""DICOM series, as a scanner exports them."""

from __future__ import annotations

import numpy as np

from GEDGANLib.volumes.volume import LPS_TO_RAS


def write_dicom(folder, case, series="1.2.826.0.1.3680043.2.1125.1", transfer="1.2.840.10008.1.2.1"):
    """One file a slice, in shuffled order, as a scanner's export has them."""
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import MRImageStorage

    folder.mkdir(parents=True)
    lps = LPS_TO_RAS @ case.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    directions = lps[:3, :3] / spacing
    for number in np.random.default_rng(0).permutation(case.image.shape[3]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = MRImageStorage
        meta.MediaStorageSOPInstanceUID = f"{series}.{number + 1}"
        meta.TransferSyntaxUID = transfer
        slice_file = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        slice_file.SOPClassUID, slice_file.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        slice_file.Modality, slice_file.PatientID, slice_file.PatientName = "MR", "anonymous", "anonymous"
        slice_file.StudyInstanceUID, slice_file.SeriesInstanceUID = series + ".9", series
        slice_file.InstanceNumber = int(number) + 1
        slice_file.ImagePositionPatient = [float(x) for x in (lps @ [0, 0, number, 1])[:3]]
        slice_file.ImageOrientationPatient = [float(x) for x in (*directions[:, 0], *directions[:, 1])]
        slice_file.PixelSpacing = [float(spacing[1]), float(spacing[0])]
        slice_file.SliceThickness = float(spacing[2])
        slice_file.Rows, slice_file.Columns = case.image.shape[2], case.image.shape[1]
        slice_file.SamplesPerPixel, slice_file.PhotometricInterpretation = 1, "MONOCHROME2"
        slice_file.BitsAllocated, slice_file.BitsStored, slice_file.HighBit = 16, 16, 15
        slice_file.PixelRepresentation = 0
        slice_file.PixelData = np.round(case.image[0, :, :, number]).astype(np.uint16).T.tobytes()
        pydicom.dcmwrite(folder / f"IM{number * 7 % 26:04d}_{number}", slice_file, enforce_file_format=True)
