"""What leaves the training: a plain model as safetensors with all that is needed to rebuild it."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainables import methods, models
from trainables.data import Sets

WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"


class Shipped(nn.Module):
    """A classifier of images as people have them: float [B, C, H, W] in [0, 1] -> logits [B, K].

    `classes` names the logits in order.
    """

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor, classes: tuple[str, ...]):
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean[:, None, None].clone())
        self.register_buffer("std", std[:, None, None].clone())
        self.classes = tuple(classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images - self.mean) / self.std)


def ship(method: methods.Method, sets: Sets) -> Shipped:
    """The deployed model of a trained method, in evaluation mode, on the CPU."""
    shipped = Shipped(method.deploy(), sets.mean, sets.std, sets.classes)
    return shipped.to("cpu", memory_format=torch.contiguous_format).eval()


def save(folder: Path, shipped: Shipped, model: dict, image_shape: tuple[int, int, int]) -> None:
    """Writes the weights and their description. model: the config section that built the
    backbone."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.contiguous() for name, tensor in shipped.state_dict().items()}
    save_file(weights, folder / WEIGHTS)
    description = {
        "model": model,
        "image_shape": list(image_shape),
        "classes": list(shipped.classes),
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1, ensure_ascii=False))


def load(folder: str | Path) -> Shipped:
    """The model that `save` wrote, in evaluation mode; nothing is unpickled."""
    folder = Path(folder)
    description = json.loads((folder / DESCRIPTION).read_text())
    shape, classes = description["image_shape"], description["classes"]
    network = models.build(classes=len(classes), image_shape=shape, **description["model"])
    shipped = Shipped(network, torch.zeros(shape[0]), torch.ones(shape[0]), tuple(classes))
    shipped.load_state_dict(load_file(folder / WEIGHTS))
    return shipped.eval()
