"""Run by Slicer's ctest, with and without a main window: what works before PyTorch is installed, and that what needs it
is skipped, not failed."""

import tempfile
import unittest
from pathlib import Path

import slicer


class GEDGANPipelineTest(unittest.TestCase):
    def setUp(self):
        slicer.mrmlScene.Clear()
        import GEDGAN

        self.logic = GEDGAN.GEDGANLogic()
        self.requirements = Path(GEDGAN.__file__).parent / "Resources" / "requirements.txt"

    def test_sample_lies_where_the_brain_is(self):
        nodes = self.logic.loadSample(3)
        self.assertEqual(len(nodes), 3)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"), 3)
        bounds = [0.0] * 6
        nodes[0].GetRASBounds(bounds)
        self.assertLess(bounds[0], 0.0)
        self.assertGreater(bounds[1], 0.0)

    def test_table_of_the_scene(self):
        from GEDGANPanel import scene_cases

        self.logic.loadSample(2)
        # Cases that the panel made itself are no training data, but the sample is: it stands for scans.
        rows = scene_cases.rows()
        self.assertEqual([row.usable for row in rows], [True, True])
        self.assertTrue(all(row.segmentation is not None for row in rows))

    def test_missing_packages_are_told_in_words(self):
        from GEDGANPanel import environment

        state = environment.look(self.requirements)
        self.assertTrue(state.ready or "Missing" in state.words())

    def test_training_and_synthesis(self):
        from GEDGANPanel import environment

        if not environment.look(self.requirements).ready:
            self.skipTest("PyTorch or other packages are not installed")
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "data"
            self.logic.runWorker(["cohort", "-n", 6, "-o", data, "--shape", 16, 24, 16, "--spacing", 9])
            run = Path(folder) / "run"
            model = self.logic.train(data, run, steps=3, device="cpu", waitForCompletion=True)
            batch = self.logic.synthesize(model, count=2)
        self.assertEqual(len(batch.cases), 2)
        batch.remove()
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"), 0)


if __name__ == "__main__":
    unittest.main()
