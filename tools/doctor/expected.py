"""The number of images in each published list (configs/domains, docs/reproduction.md)."""

from tools.domain import domains

EXPECTED = {list_: rule.images for name in domains.names() for list_, rule in domains.load(name).lists.items()}
