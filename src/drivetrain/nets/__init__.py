"""Reference networks that examples and benchmarks share: plain torch, random weights, no downloads."""

from .cnn import SmallCNN, small_cnn
from .densenet import DenseNet, densenet121, densenet_small
from .lenet import LeNet5, lenet5
from .lstm import LSTMLanguageModel, lstm_language_model
from .mlp import MLP, mlp
from .mobilenet import MobileNetV1, mobilenet_v1
from .registry import NETS, build
from .resnet import CifarResNet, ResNet, resnet18, resnet20, resnet50, resnet110
from .sru import SRUTextClassifier, sru_classifier
from .vgg import VGG16, vgg16
from .wcnn import TextWCNN, text_wcnn

__all__ = [
    "MLP",
    "NETS",
    "VGG16",
    "CifarResNet",
    "DenseNet",
    "LSTMLanguageModel",
    "LeNet5",
    "MobileNetV1",
    "ResNet",
    "SRUTextClassifier",
    "SmallCNN",
    "TextWCNN",
    "build",
    "densenet121",
    "densenet_small",
    "lenet5",
    "lstm_language_model",
    "mlp",
    "mobilenet_v1",
    "resnet18",
    "resnet20",
    "resnet50",
    "resnet110",
    "small_cnn",
    "sru_classifier",
    "text_wcnn",
    "vgg16",
]
