"""A U-Net from few labelled cases, their variations and the unlabelled rest."""
