"""Every classifier of `keras.applications`, one row each.

The names of layers and files below are Keras's own. Auto-numbered layers (``activation_187``) are
numbered as in a fresh Keras session; `architecture.build_model` sees to it that every build is one.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from featurestore.errors import InvalidInput

Preprocessing = Literal["caffe", "tf", "torch", "none"]

_TF_KERNELS = "{}_weights_tf_dim_ordering_tf_kernels"


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """One classifier of `keras.applications`.

    Parameters
    ----------
    name
        The field's name for it; the one that recipes and commands use.
    module, constructor
        Where it lives: ``keras.applications.<module>.<constructor>``.
    default_size
        Side of the square input in pixels that its ImageNet weights were trained on.
    minimum_size
        Smallest side in pixels that Keras accepts without the top.
    preprocessing
        Colour order and normalisation that its weights expect; see `preprocessing`.
    default_layer
        The output of the network without its top, before any pooling.
    weights_file, weights_file_no_top
        Names of Keras's ImageNet files in the folder ``models`` of Keras's home.
    fixed_top
        The top flattens, so its weights fit the default size only.
    """

    name: str
    module: str
    constructor: str
    default_size: int
    minimum_size: int
    preprocessing: Preprocessing
    default_layer: str
    weights_file: str
    weights_file_no_top: str
    fixed_top: bool = False


def _spec(
    name: str,
    constructor: str,
    family: tuple[str, Preprocessing, int],
    *,
    size: int,
    layer: str,
    files: tuple[str, str],
) -> BackboneSpec:
    module, preprocessing, minimum_size = family
    return BackboneSpec(
        name=name,
        module=module,
        constructor=constructor,
        default_size=size,
        minimum_size=minimum_size,
        preprocessing=preprocessing,
        default_layer=layer,
        weights_file=f"{files[0]}.h5",
        weights_file_no_top=f"{files[0]}{files[1]}.h5",
        fixed_top=module in ("vgg16", "vgg19"),
    )


# (module, preprocessing mode, minimum size) of each family; the mode is what the module's own
# preprocess_input does, "none" where the network normalises in its first layers.
_VGG16: tuple[str, Preprocessing, int] = ("vgg16", "caffe", 32)
_VGG19: tuple[str, Preprocessing, int] = ("vgg19", "caffe", 32)
_XCEPTION: tuple[str, Preprocessing, int] = ("xception", "tf", 71)
_INCEPTION: tuple[str, Preprocessing, int] = ("inception_v3", "tf", 75)
_INCEPTION_RESNET: tuple[str, Preprocessing, int] = ("inception_resnet_v2", "tf", 75)
_MOBILENET: tuple[str, Preprocessing, int] = ("mobilenet", "tf", 32)
_MOBILENET_V2: tuple[str, Preprocessing, int] = ("mobilenet_v2", "tf", 32)
_MOBILENET_V3: tuple[str, Preprocessing, int] = ("mobilenet_v3", "none", 32)
_RESNET: tuple[str, Preprocessing, int] = ("resnet", "caffe", 32)
_RESNET_V2: tuple[str, Preprocessing, int] = ("resnet_v2", "tf", 32)
_DENSENET: tuple[str, Preprocessing, int] = ("densenet", "torch", 32)
_NASNET: tuple[str, Preprocessing, int] = ("nasnet", "tf", 32)
_EFFICIENTNET: tuple[str, Preprocessing, int] = ("efficientnet", "none", 32)
_EFFICIENTNET_V2: tuple[str, Preprocessing, int] = ("efficientnet_v2", "none", 32)
_CONVNEXT: tuple[str, Preprocessing, int] = ("convnext", "none", 32)


def _kernels(name: str) -> tuple[str, str]:
    return _TF_KERNELS.format(name), "_notop"


_EFFICIENTNET_SIZES = (224, 240, 260, 300, 380, 456, 528, 600)
_EFFICIENTNET_V2_SIZES = {"b0": 224, "b1": 240, "b2": 260, "b3": 300, "s": 384, "m": 480, "l": 480}
_MOBILENET_V3_FILES = ("weights_mobilenet_v3_{}_224_1.0_float", "_no_top_v2")

_ROWS = (
    _spec("vgg16", "VGG16", _VGG16, size=224, layer="block5_pool", files=_kernels("vgg16")),
    _spec("vgg19", "VGG19", _VGG19, size=224, layer="block5_pool", files=_kernels("vgg19")),
    _spec(
        "xception",
        "Xception",
        _XCEPTION,
        size=299,
        layer="block14_sepconv2_act",
        files=_kernels("xception"),
    ),
    _spec(
        "inception_v3",
        "InceptionV3",
        _INCEPTION,
        size=299,
        layer="mixed10",
        files=_kernels("inception_v3"),
    ),
    _spec(
        "inception_resnet_v2",
        "InceptionResNetV2",
        _INCEPTION_RESNET,
        size=299,
        layer="conv_7b_ac",
        files=_kernels("inception_resnet_v2"),
    ),
    _spec(
        "mobilenet",
        "MobileNet",
        _MOBILENET,
        size=224,
        layer="conv_pw_13_relu",
        files=("mobilenet_1_0_224_tf", "_no_top"),
    ),
    _spec(
        "mobilenet_v2",
        "MobileNetV2",
        _MOBILENET_V2,
        size=224,
        layer="out_relu",
        files=(_TF_KERNELS.format("mobilenet_v2") + "_1.0_224", "_no_top"),
    ),
    *(
        _spec(
            f"mobilenet_v3_{width}",
            f"MobileNetV3{width.title()}",
            _MOBILENET_V3,
            size=224,
            layer=layer,
            files=(_MOBILENET_V3_FILES[0].format(width), _MOBILENET_V3_FILES[1]),
        )
        for width, layer in (("small", "activation_17"), ("large", "activation_19"))
    ),
    *(
        _spec(
            f"resnet{depth}",
            f"ResNet{depth}",
            _RESNET,
            size=224,
            layer="conv5_block3_out",
            files=_kernels(f"resnet{depth}"),
        )
        for depth in (50, 101, 152)
    ),
    *(
        _spec(
            f"resnet{depth}_v2",
            f"ResNet{depth}V2",
            _RESNET_V2,
            size=224,
            layer="post_relu",
            files=_kernels(f"resnet{depth}v2"),
        )
        for depth in (50, 101, 152)
    ),
    *(
        _spec(
            f"densenet{depth}",
            f"DenseNet{depth}",
            _DENSENET,
            size=224,
            layer="relu",
            files=_kernels(f"densenet{depth}"),
        )
        for depth in (121, 169, 201)
    ),
    _spec(
        "nasnet_mobile",
        "NASNetMobile",
        _NASNET,
        size=224,
        layer="activation_187",
        files=("nasnet_mobile", "_no_top"),
    ),
    _spec(
        "nasnet_large",
        "NASNetLarge",
        _NASNET,
        size=331,
        layer="activation_259",
        files=("nasnet_large", "_no_top"),
    ),
    *(
        _spec(
            f"efficientnet_b{scale}",
            f"EfficientNetB{scale}",
            _EFFICIENTNET,
            size=size,
            layer="top_activation",
            files=(f"efficientnetb{scale}", "_notop"),
        )
        for scale, size in enumerate(_EFFICIENTNET_SIZES)
    ),
    *(
        _spec(
            f"efficientnet_v2_{scale}",
            f"EfficientNetV2{scale.upper()}",
            _EFFICIENTNET_V2,
            size=size,
            layer="top_activation",
            files=(f"efficientnetv2-{scale}", "_notop"),
        )
        for scale, size in _EFFICIENTNET_V2_SIZES.items()
    ),
    *(
        _spec(
            f"convnext_{width.lower()}",
            f"ConvNeXt{width}",
            _CONVNEXT,
            size=224,
            layer="layer_normalization",
            files=(f"convnext_{width.lower()}", "_notop"),
        )
        for width in ("Tiny", "Small", "Base", "Large", "XLarge")
    ),
)

BACKBONES: Mapping[str, BackboneSpec] = MappingProxyType({spec.name: spec for spec in _ROWS})


def get_spec(name: str) -> BackboneSpec:
    """Return the row of the table called `name`.

    Raises
    ------
    InvalidInput
        There is no such backbone; the message names the closest ones.
    """
    spec = BACKBONES.get(name)
    if spec is None:
        close = difflib.get_close_matches(name.lower().replace("-", "_"), BACKBONES, n=3)
        near = f"; closest: {', '.join(close)}" if close else ""
        raise InvalidInput(
            f"unknown backbone {name!r}: expected one of the {len(BACKBONES)} of the table{near}",
            next_step=f"choose one of: {', '.join(BACKBONES)}",
        )
    return spec
