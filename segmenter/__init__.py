"""The first stage: image -> foreground mask. A network that knows no class labels and imports nothing of the laboratory.

How it is trained: ``foreguard train-segmenter data=... segmenter=small objective=natural``. The training engine lives in
``pipeline.training``; it builds the stage with ``segmenter.model.build_segmenter`` and needs nothing else from here but the
losses (``segmenter.losses``) and metrics (``segmenter.metrics``), both one value per image. Alone, the stage is an ordinary
module::

    from segmenter.config import SegmenterConfig
    from segmenter.model import build_segmenter

    segmenter = build_segmenter(SegmenterConfig(), seed=0).eval()
    masks = segmenter(images).sigmoid()  # images (B,3,H,W) in [0,1] -> masks (B,1,H,W) in [0,1]

Nothing is imported here, so that reading a configuration does not cost the seconds that the encoder library takes to load.
"""
