"""What leaves the training: a plain model as safetensors with all that is needed to rebuild it."""

import json
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from trainables import compiling, methods, models
from trainables.data import Sets
from trainables.storage import Folder

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
    compiling.undo(shipped)
    return shipped.to("cpu", memory_format=torch.contiguous_format).eval()


def save(
    place: str | Path | Folder,
    shipped: Shipped,
    model: dict,
    image_shape: tuple[int, int, int],
    unseen: dict[str, float] | None = None,
) -> None:
    """Writes the weights and, last, their description. model: the config section that built the
    backbone. unseen: see `Sets`."""
    folder = place if isinstance(place, Folder) else Folder(place)
    weights = {name: tensor.contiguous() for name, tensor in shipped.state_dict().items()}
    description = {
        "model": model,
        "image_shape": list(image_shape),
        "classes": list(shipped.classes),
        "unseen": unseen,
    }
    folder.write(WEIGHTS, safetensors.torch.save(weights))
    folder.write(DESCRIPTION, json.dumps(description, indent=1, ensure_ascii=False).encode())


def unseen(place: str | Path | Folder) -> dict[str, float] | None:
    """What the model that `save` wrote was not trained on; see `Sets`. Errors: those of `load`."""
    folder = place if isinstance(place, Folder) else Folder(place)
    return json.loads(folder.read(DESCRIPTION)).get("unseen")


def load(place: str | Path | Folder) -> Shipped:
    """The model that `save` wrote, in evaluation mode; nothing is unpickled.
    Errors: OSError when there is none, ValueError for one that is damaged."""
    folder = place if isinstance(place, Folder) else Folder(place)
    try:
        description = json.loads(folder.read(DESCRIPTION))
        shape, classes = description["image_shape"], description["classes"]
        network = models.build(classes=len(classes), image_shape=shape, **description["model"])
        shipped = Shipped(network, torch.zeros(shape[0]), torch.ones(shape[0]), tuple(classes))
        shipped.load_state_dict(safetensors.torch.load(folder.read(WEIGHTS)), assign=True)
    except (KeyError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
        raise ValueError(f"{folder.uri} holds no model that can be read: {error}") from error
    return shipped.eval()
