"""Small residual image towers under names that open_clip's `timm_model_name` can ask for.

Source: He et al., "Deep Residual Learning for Image Recognition" (2015), basic blocks; He et al., "Bag of Tricks"
(2019) for the three-conv stem. Against timm's resnet10t the widths are smaller and the stem's pooling is left out (a
64-pixel picture reaches the head as a 4x4 grid) unless the entry says `pooled`, which is three times faster.
"""

from __future__ import annotations

from typing import Any

from torch import nn

TOWERS: dict[str, dict[str, Any]] = {
    "dreamqueue_resnet10": {"layers": (1, 1, 1, 1), "channels": (48, 96, 192, 320), "stem_width": 24},
    "dreamqueue_resnet10s": {"layers": (1, 1, 1, 1), "channels": (40, 80, 128, 192), "stem_width": 16},
    "dreamqueue_resnet10p": {
        "layers": (1, 1, 1, 1),
        "channels": (48, 96, 192, 320),
        "stem_width": 16,
        "pooled": True,
    },
    "dreamqueue_resnet10ps": {
        "layers": (1, 1, 1, 1),
        "channels": (40, 80, 160, 256),
        "stem_width": 16,
        "pooled": True,
    },
    "dreamqueue_resnet_tiny": {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16), "stem_width": 8},
}


def build_tower(name: str, num_classes: int = 0, global_pool: str = "avg", in_chans: int = 3) -> nn.Module:
    """The tower of one entry in TOWERS, with random weights."""
    from timm.models.resnet import BasicBlock, ResNet

    spec = TOWERS[name]
    block: Any = BasicBlock  # timm says that an instance is wanted
    net: Any = ResNet(
        block,
        spec["layers"],
        num_classes=num_classes,
        in_chans=in_chans,
        global_pool=global_pool,
        stem_type="deep",
        stem_width=spec["stem_width"],
        channels=spec["channels"],
        avg_down=True,
        act_layer=nn.SiLU,  # smooth, so that gradients to the picture are of use (Xie et al., 2020)
    )
    if not spec.get("pooled"):
        net.maxpool = nn.Identity()
    net.default_cfg = {"architecture": name}
    net.pretrained_cfg = net.default_cfg
    return net


def register_towers() -> None:
    """Make the names known to timm's registry; calling it again changes nothing."""
    from timm.models import is_model, register_model

    for name in TOWERS:
        if not is_model(name):
            register_model(_entry(name))


def _entry(name: str) -> Any:
    def entry(pretrained: bool = False, num_classes: int = 0, global_pool: str = "avg", **_: Any) -> nn.Module:
        if pretrained:
            raise ValueError(f"{name} has no weights of its own")
        return build_tower(name, num_classes, global_pool)

    entry.__name__ = name
    entry.__module__ = __name__
    return entry
