"""Where nnU-Net finds its trainer that draws variations: give this folder as ``nnUNet_extTrainer``."""
