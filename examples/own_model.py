"""Robust accuracy of a torchvision model on a loader of one's own:  python examples/own_model.py"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18
from torchvision.transforms import Normalize

from pipeline import evaluate

torch.manual_seed(0)
labels = torch.arange(120) % 4
images = (0.5 + 0.1 * torch.randn(120, 3, 32, 32)).clamp(0, 1)
for image, label in zip(images, labels, strict=True):  # a bright square in one of four corners says which class it is
    row, column = divmod(int(label), 2)
    image[:, 16 * row + 4 : 16 * row + 12, 16 * column + 4 : 16 * column + 12] += 0.3
images.clamp_(0, 1)

# What is attacked takes images in [0,1] and gives logits: the normalisation is part of it.
model = nn.Sequential(Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)), resnet18(num_classes=4))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for _ in range(15):
    for batch in torch.randperm(100).split(25):
        loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

loader = DataLoader(TensorDataset(images[100:], labels[100:]), batch_size=16)
result = evaluate(model, loader, norm="linf", epsilons=["2/255", "8/255"], attacks="quickstart")
print(result)
print(result.robust_accuracy("8/255"))
turned = result.outcomes.filter(result.outcomes["adversarial_prediction"] != result.outcomes["label"])
print(turned.group_by("epsilon", "found_by").len().sort("epsilon", "found_by"))
