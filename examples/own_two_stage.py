"""A torchvision segmenter in front of a timm classifier, attacked end to end:  python examples/own_two_stage.py"""

import timm
import torch
from torch import Tensor, nn
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from pipeline import TwoStage, evaluate


class Foreground(nn.Module):  # images in [0,1] to one logit a pixel; torchvision's segmenters return a dictionary
    def __init__(self) -> None:
        super().__init__()
        self.network = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images - 0.5) / 0.25)["out"]


def fit(model: nn.Module, loss: nn.Module, targets: Tensor) -> None:
    for module in model.modules():
        module.momentum = 0.2  # of batch norms: there are few steps
    optimizer = torch.optim.Adam([weight for weight in model.parameters() if weight.requires_grad], lr=3e-3)
    for batch in torch.randint(0, 96, (40, 24)):
        optimizer.zero_grad()
        loss(model(images[batch]), targets[batch]).backward()
        optimizer.step()


torch.manual_seed(0)
labels, places = torch.arange(112) % 3, torch.randint(0, 32, (112, 2))
images, masks = 0.3 + 0.1 * torch.rand(112, 3, 64, 64), torch.zeros(112, 1, 64, 64)
for image, mask, label, (row, column) in zip(images, masks, labels, places.tolist(), strict=True):
    mask[:, row : row + 32, column : column + 32] = 1  # a square somewhere, whose color is its class
    image[label, row : row + 32, column : column + 32] += 0.3
fit(segmenter := Foreground(), nn.BCEWithLogitsLoss(), masks)
system = TwoStage(timm.create_model("test_resnet", num_classes=3), segmenter=segmenter, masks="learned", fill="grey")
fit(system, nn.CrossEntropyLoss(), labels)
test = [(images[96:], labels[96:], masks[96:])]
print(evaluate(system, test, epsilons=["4/255", "16/255"], attacks="quickstart"))
