"""How many images the published lists have (docs/reproduction.md)."""

EXPECTED = {
    "train_cityscapes": 2975, "val_cityscapes": 500, "val2_cityscapes": 500, "test_cityscapes": 1525,
    "train_game_9K": 9000, "val_game_1K": 1000, "train_synthia_9K": 9400, "val_synthia": 400,
}
