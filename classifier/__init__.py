"""The second stage: image -> class logits. A network that knows no masks and imports nothing of the laboratory.

How it is trained: ``foreguard train-classifier data=... classifier=small objective=natural``. The training engine lives in
``pipeline.training``, which also decides what mask is laid over the images before this stage sees them; it builds the stage with
``classifier.model.build_classifier`` and needs nothing else from here but the losses (``classifier.losses``) and metrics
(``classifier.metrics``). Alone, the stage is an ordinary module::

    from classifier.config import ClassifierConfig
    from classifier.model import build_classifier

    classifier = build_classifier(ClassifierConfig(), num_classes=43, seed=0).eval()
    labels = classifier(images).argmax(dim=1)  # images (B,3,H,W) in [0,1] -> labels (B,)

Nothing is imported here, so that reading a configuration does not cost the seconds that torchvision takes to load.
"""
