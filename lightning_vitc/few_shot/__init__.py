"""Compression with a few unlabeled images: what DC-ViT and PRACTISE are made of."""
