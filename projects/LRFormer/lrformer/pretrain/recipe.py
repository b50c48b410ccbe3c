"""How the paper pre-trains (section 4.1), as data."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Recipe:
    """Values of an ImageNet training with AdamW and a cosine schedule.

    What the paper leaves to "the standard strategy" of DeiT and Swin is theirs: warm-up, clipping,
    RandAugment, random erasing, mixup, CutMix, label smoothing, stochastic depth of 0.1.

    Raises:
        ValueError: a value outside its range; the message names the option.
    """

    epochs: int = 300
    batch_size: int = 1024  # of all processes together
    lr: float = 1e-3  # the highest one
    weight_decay: float = 0.05
    warmup_epochs: int = 5
    clip_grad: float = 5.0  # norm; 0 does not clip
    drop_path: float = 0.1
    label_smoothing: float = 0.1
    mixup: float = 0.8  # alpha; 0 does not mix
    cutmix: float = 1.0
    auto_augment: str = "rand-m9-mstd0.5-inc1"  # timm's name; "" does without
    random_erasing: float = 0.25

    def __post_init__(self):
        values = {name: value for name, value in vars(self).items() if name != "auto_augment"}
        for name, value in values.items():
            fits, expected = value >= 0, "0 or more"
            if name in ("epochs", "batch_size", "lr"):
                fits, expected = value > 0, "positive"
            elif name in ("drop_path", "label_smoothing", "random_erasing"):
                fits, expected = 0 <= value < 1, "in [0, 1)"
            if not fits:
                raise ValueError(f"{option(name)} must be {expected}, not {value}")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"--warmup-epochs {self.warmup_epochs} leaves nothing of --epochs {self.epochs} "
                "for the training itself; give a smaller --warmup-epochs"
            )

    @property
    def mixes(self) -> bool:
        """Whether mixup or CutMix is on."""
        return self.mixup > 0 or self.cutmix > 0

    def changed(self, **values) -> "Recipe":
        """This recipe with other values; those that are None stay.

        A learning rate that is not given scales linearly with the batch.
        """
        values = {name: value for name, value in values.items() if value is not None}
        if values.get("batch_size", 0) > 0:
            values.setdefault("lr", self.lr * values["batch_size"] / self.batch_size)
        return replace(self, **values)


RECIPES = {
    "imagenet1k": Recipe(),
    "imagenet22k": Recipe(epochs=90),
    # From ImageNet-22K weights to ImageNet-1K.
    "finetune": Recipe(epochs=30, batch_size=512, lr=5e-5),
}


def option(name: str) -> str:
    """The command line's name of a recipe's value."""
    return "--" + name.replace("_", "-")
