"""LightSKD's training loop as its authors wrote it, afresh and with its bugs mended: what
benchmarks/step.py measures ours against.

Everything is as the released code has it (arXiv:2305.09183): torchvision's transforms on one PIL
image after the other, a DataLoader, float32, contiguous tensors, SGD that is neither fused nor
scheduled within an epoch, the loss logged every step. Mended are the mistakes that change what is
computed: the head's width comes from the network, DRG and DSR use the temperature they are given,
the teacher of DSR is kept detached, no constant is added to the loss.
"""

import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from trainables.images import Images

_MEAN, _STD = (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)
_ALPHA, _BETA, _TEMPERATURE = 0.2, 1.0, 4.0


class Loop:
    """resnet18 with the 3x3 stem and the authors' head on its second stage, DRG and DSR."""

    def __init__(
        self, images: Images, classes: int, batch_size: int, workers: int, device: torch.device
    ):
        self.device = device
        self.network = _Network(classes).to(device)
        self.head = _Head(classes).to(device)
        parameters = [*self.network.parameters(), *self.head.parameters()]
        self.sgd = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=5e-4)
        loader = DataLoader(
            _Pictures(images),
            batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
        )
        self.batches: Iterator = itertools.chain.from_iterable(itertools.repeat(loader))
        self.previous: Tensor | None = None
        self.logged = 0.0

    def train(self, steps: int) -> None:
        for images, labels in itertools.islice(self.batches, steps):
            inputs = images.to(self.device, non_blocking=True)
            targets = labels.to(self.device, non_blocking=True)
            logits, tapped = self.network(inputs)
            shallow = self.head(tapped)
            loss = F.cross_entropy(logits, targets) + F.cross_entropy(shallow, targets)
            loss = loss + _ALPHA * _distillation(logits, shallow.detach())
            ordered = logits.sort(dim=1).values
            if self.previous is not None:
                loss = loss + _BETA * _distillation(ordered, self.previous)
            self.previous = ordered.detach()
            self.sgd.zero_grad()
            loss.backward()
            self.sgd.step()
            self.logged += loss.item()


def _distillation(student: Tensor, teacher: Tensor) -> Tensor:
    # [B, K], [B, K] -> scalar
    return _TEMPERATURE**2 * F.kl_div(
        F.log_softmax(student / _TEMPERATURE, dim=1),
        F.softmax(teacher / _TEMPERATURE, dim=1),
        reduction="batchmean",
    )


class _Pictures(Dataset):
    """PIL images and labels, as torchvision's CIFAR100 gives them."""

    def __init__(self, images: Images):
        self.pixels = images.pixels.permute(0, 2, 3, 1).cpu().numpy()
        self.labels = images.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(32),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(_MEAN, _STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


class _Network(nn.Module):
    def __init__(self, classes: int):
        super().__init__()
        self.net = torchvision.models.resnet18(weights=None, num_classes=classes)
        self.net.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        # [B, 3, 32, 32] -> [B, K], [B, 128, 16, 16]
        net = self.net
        tapped = net.layer2(net.layer1(net.relu(net.bn1(net.conv1(images)))))
        last = net.layer4(net.layer3(tapped))
        return net.fc(torch.flatten(net.avgpool(last), 1)), tapped


class _Head(nn.Module):
    def __init__(self, classes: int):
        super().__init__()
        self.attention = nn.Sequential(
            *_separable(128, 128),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            nn.Sigmoid(),
        )
        self.classifier = nn.Sequential(
            *_separable(128, 256),
            *_separable(256, 512),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(512, classes),
        )

    def forward(self, maps: Tensor) -> Tensor:
        # [B, 128, 16, 16] -> [B, K]
        return self.classifier(self.attention(maps) * maps)


def _separable(before: int, after: int) -> list[nn.Module]:
    return [
        nn.Conv2d(before, before, 3, stride=2, padding=1, groups=before, bias=False),
        nn.Conv2d(before, before, 1, bias=False),
        nn.BatchNorm2d(before),
        nn.ReLU(),
        nn.Conv2d(before, before, 3, padding=1, groups=before, bias=False),
        nn.Conv2d(before, after, 1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    ]
