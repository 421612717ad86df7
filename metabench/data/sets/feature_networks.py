"""Weights of trained convolutions on which losses between images are computed: MTCNN's O-Net and VGG-16. Both are fetched."""

from __future__ import annotations

from metabench.data.contract import DataFile, Dataset, DatasetCard
from metabench.data.fetch.sources import Address, PythonPackage

ONET = DatasetCard(
    name="onet",
    title="Weights of O-Net, the third network of the face detector MTCNN",
    task="weights",
    licence="MIT",
    attribution="Copyright 2019 Timothy Esler; the weights of K. Zhang, Z. Zhang, Z. Li and Y. Qiao, converted",
    source="facenet_pytorch/data/onet.pt of the Python package facenet-pytorch 2.6.0",
    citation="zhang2016joint",
    sizes={"parameters": 389_040},
    fetched=True,
    files=(DataFile("onet.pt", 1_559_269, "165bfbe42940416ccfb977545cf0e976d5bf321f67083ae2aaaa5c764280118d"),),
)

VGG16 = DatasetCard(
    name="vgg16",
    title="Weights of VGG-16, trained on ImageNet",
    task="weights",
    licence="BSD-3-Clause (torchvision); trained on ImageNet, whose terms allow research only",
    attribution="Soumith Chintala and the authors of torchvision",
    source="https://download.pytorch.org/models/vgg16-397923af.pth, torchvision's VGG16_Weights.IMAGENET1K_V1",
    citation="simonyan2015very",
    sizes={"parameters": 138_357_544},
    fetched=True,
    files=(
        DataFile("vgg16-397923af.pth", 553_433_881, "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0"),
    ),
)


def _bytes_of(card: DatasetCard, *sources: Address | PythonPackage) -> Dataset:
    """Return the data set that loads as the bytes of its only file."""
    (file,) = card.files
    return Dataset(card, lambda read: read(file.name), sources)


DATASETS = (
    _bytes_of(
        ONET,
        PythonPackage(
            "facenet-pytorch",
            "2.6.0",
            "ecb82b27beb226d106f2219efe8f829b01b87a8595badd01545679bdb9f19cca",
            inside="facenet_pytorch/data/",
        ),
    ),
    _bytes_of(VGG16, Address("https://download.pytorch.org/models/")),
)
