"""Every network of the zoo, as literal rows. The tests compare each count with the traced network."""

from jaxmem_models.registry.model import Model


def _alexnet() -> Model:
    return Model(
        name="alexnet",
        family="alexnet",
        constructor="alexnet:AlexNet",
        arguments=(),
        parameter_count=61_100_840,
        batch_stat_count=0,
        image_size=224,
        smallest_image_size=63,
        reference="Krizhevsky, One weird trick for parallelizing convolutional neural networks, arXiv:1404.5997",
    )


def _densenet(depth: int, parameter_count: int, batch_stat_count: int) -> Model:
    return Model(
        name=f"densenet{depth}",
        family="densenet",
        constructor="densenet:DenseNet",
        arguments=(("depth", depth),),
        parameter_count=parameter_count,
        batch_stat_count=batch_stat_count,
        image_size=224,
        smallest_image_size=29,
        reference="Huang et al., Densely Connected Convolutional Networks, arXiv:1608.06993",
    )


def _googlenet(name: str, auxiliary: bool, parameter_count: int, batch_stat_count: int) -> Model:
    return Model(
        name=name,
        family="googlenet",
        constructor="googlenet:GoogLeNet",
        arguments=(("auxiliary", auxiliary),),
        parameter_count=parameter_count,
        batch_stat_count=batch_stat_count,
        auxiliary_weights=(0.3, 0.3) if auxiliary else (),
        image_size=224,
        smallest_image_size=15,
        reference="Szegedy et al., Going Deeper with Convolutions, arXiv:1409.4842",
    )


def _inception_v3(
    name: str, auxiliary: bool, parameter_count: int, batch_stat_count: int, smallest_image_size: int
) -> Model:
    return Model(
        name=name,
        family="inception_v3",
        constructor="inception_v3:InceptionV3",
        arguments=(("auxiliary", auxiliary),),
        parameter_count=parameter_count,
        batch_stat_count=batch_stat_count,
        auxiliary_weights=(0.4,) if auxiliary else (),
        image_size=299,
        smallest_image_size=smallest_image_size,
        reference="Szegedy et al., Rethinking the Inception Architecture for Computer Vision, arXiv:1512.00567",
    )


_RESNETS: dict[str, str] = {
    "resnet": "He et al., Deep Residual Learning for Image Recognition, arXiv:1512.03385",
    "resnext": "Xie et al., Aggregated Residual Transformations for Deep Neural Networks, arXiv:1611.05431",
    "wide_resnet": "Zagoruyko and Komodakis, Wide Residual Networks, arXiv:1605.07146",
}


def _resnet(
    family: str,
    name: str,
    depth: int,
    parameter_count: int,
    batch_stat_count: int,
    groups: int = 1,
    group_width: int = 64,
) -> Model:
    return Model(
        name=name,
        family=family,
        constructor="resnet:ResNet",
        arguments=(("depth", depth), ("groups", groups), ("group_width", group_width)),
        parameter_count=parameter_count,
        batch_stat_count=batch_stat_count,
        image_size=224,
        smallest_image_size=1,
        reference=_RESNETS[family],
    )


def _squeezenet(version: str, parameter_count: int, smallest_image_size: int) -> Model:
    return Model(
        name=f"squeezenet{version.replace('.', '_')}",
        family="squeezenet",
        constructor="squeezenet:SqueezeNet",
        arguments=(("version", version),),
        parameter_count=parameter_count,
        batch_stat_count=0,
        image_size=224,
        smallest_image_size=smallest_image_size,
        reference=f"Iandola et al., SqueezeNet, arXiv:1602.07360, version {version}",
    )


def _unet() -> Model:
    return Model(
        name="unet",
        family="unet",
        constructor="unet:UNet",
        arguments=(),
        parameter_count=31_030_658,
        batch_stat_count=0,
        task="segmentation",
        classes=2,
        image_size=512,
        smallest_image_size=16,
        image_size_divisor=16,
        channels=1,
        reference="Ronneberger et al., U-Net: Convolutional Networks for Biomedical Image Segmentation, arXiv:1505.04597",
    )


_VGG = "Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, arXiv:1409.1556"


def _vgg(name: str, configuration: str, batch_norm: bool, parameter_count: int, batch_stat_count: int) -> Model:
    return Model(
        name=name,
        family="vgg",
        constructor="vgg:VGG",
        arguments=(("configuration", configuration), ("batch_norm", batch_norm)),
        parameter_count=parameter_count,
        batch_stat_count=batch_stat_count,
        image_size=224,
        smallest_image_size=32,
        takes_pool=True,
        reference=f"{_VGG}, configuration {configuration}" + (", with batch normalization" if batch_norm else ""),
    )


def _vit(name: str, variant: str, patch_size: int, parameter_count: int) -> Model:
    return Model(
        name=name,
        family="vit",
        constructor="vit:ViT",
        arguments=(("variant", variant), ("patch_size", patch_size)),
        parameter_count=parameter_count,
        batch_stat_count=0,
        image_size=224,
        smallest_image_size=patch_size,
        image_size_divisor=patch_size,
        takes_image_size=True,
        reference="Dosovitskiy et al., An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale, "
        f"arXiv:2010.11929, ViT-{variant}/{patch_size}",
    )


def _llama(
    name: str, variant: str, parameter_count: int, *, classes: int = 128_256, sequence_length: int = 8192
) -> Model:
    return Model(
        name=name,
        family="llama",
        constructor="llama:Llama",
        arguments=(("variant", variant),),
        parameter_count=parameter_count,
        batch_stat_count=0,
        task="language",
        classes=classes,
        sequence_length=sequence_length,
        decodes=True,
        scans=True,
        reference=f"Grattafiori et al., The Llama 3 Herd of Models, arXiv:2407.21783, {variant}",
    )


def _gpt2(name: str, variant: str, parameter_count: int) -> Model:
    return Model(
        name=name,
        family="gpt2",
        constructor="gpt2:GPT2",
        arguments=(("variant", variant),),
        parameter_count=parameter_count,
        batch_stat_count=0,
        task="language",
        classes=50_257,
        sequence_length=1024,
        longest_sequence_length=1024,
        reference=f"Radford et al., Language Models are Unsupervised Multitask Learners, OpenAI 2019, {variant}",
    )


_EFFICIENTNET = "Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, arXiv:1905.11946"
_EFFICIENTNET_V2 = "Tan and Le, EfficientNetV2: Smaller Models and Faster Training, arXiv:2104.00298"


def _efficientnet(
    name: str,
    parameter_count: int,
    batch_stat_count: int,
    image_size: int,
    dropout: float,
    *,
    configuration: str = "B",
    width: float = 1.0,
    depth: float = 1.0,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
) -> Model:
    return Model(
        name=name,
        family="efficientnet",
        constructor="efficientnet:EfficientNet",
        arguments=(
            ("configuration", configuration),
            ("width_multiplier", width),
            ("depth_multiplier", depth),
            ("dropout", dropout),
            ("epsilon", epsilon),
            ("momentum", momentum),
        ),
        parameter_count=parameter_count,
        batch_stat_count=batch_stat_count,
        image_size=image_size,
        smallest_image_size=1,
        reference=_EFFICIENTNET if configuration == "B" else _EFFICIENTNET_V2,
    )


_MOBILENET_V2 = "Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, arXiv:1801.04381"


def _mobilenet_v2(name: str, parameter_count: int, batch_stat_count: int) -> Model:
    return Model(
        name=name,
        family="mobilenet_v2",
        constructor="mobilenet_v2:MobileNetV2",
        arguments=(),
        parameter_count=parameter_count,
        batch_stat_count=batch_stat_count,
        image_size=224,
        smallest_image_size=1,
        reference=_MOBILENET_V2,
    )


_REGNET = "Radosavovic et al., Designing Network Design Spaces, arXiv:2003.13678"


def _regnet(
    name: str,
    parameter_count: int,
    batch_stat_count: int,
    depth: int,
    w0: int,
    wa: float,
    wm: float,
    group_width: int,
    image_size: int = 224,
) -> Model:
    is_y = name.startswith("regnet_y")
    return Model(
        name=name,
        family="regnet",
        constructor="regnet:RegNet",
        arguments=(
            ("depth", depth),
            ("w0", w0),
            ("wa", wa),
            ("wm", wm),
            ("group_width", group_width),
            ("squeeze_ratio", 0.25 if is_y else 0.0),
        ),
        parameter_count=parameter_count,
        batch_stat_count=batch_stat_count,
        image_size=image_size,
        smallest_image_size=1,
        reference=f"{_REGNET}, RegNet{'Y' if is_y else 'X'}",
    )


_MNASNET = "Tan et al., MnasNet: Platform-Aware Neural Architecture Search for Mobile, arXiv:1807.11626"


def _mnasnet(name: str, width_multiplier: float, parameter_count: int, batch_stat_count: int) -> Model:
    return Model(
        name=name,
        family="mnasnet",
        constructor="mnasnet:MNASNet",
        arguments=(("width_multiplier", width_multiplier),),
        parameter_count=parameter_count,
        batch_stat_count=batch_stat_count,
        image_size=224,
        smallest_image_size=1,
        reference=_MNASNET,
    )


_MOBILENET_V3 = "Howard et al., Searching for MobileNetV3, arXiv:1905.02244"


def _mobilenet_v3(name: str, configuration: str, parameter_count: int, batch_stat_count: int) -> Model:
    return Model(
        name=name,
        family="mobilenet_v3",
        constructor="mobilenet_v3:MobileNetV3",
        arguments=(("configuration", configuration),),
        parameter_count=parameter_count,
        batch_stat_count=batch_stat_count,
        image_size=224,
        smallest_image_size=1,
        reference=f"{_MOBILENET_V3}, {configuration}",
    )


_SHUFFLENET_V2 = (
    "Ma et al., ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design, arXiv:1807.11164"
)


def _shufflenet_v2(name: str, width: str, parameter_count: int, batch_stat_count: int) -> Model:
    return Model(
        name=name,
        family="shufflenet_v2",
        constructor="shufflenet_v2:ShuffleNetV2",
        arguments=(("width", width),),
        parameter_count=parameter_count,
        batch_stat_count=batch_stat_count,
        image_size=224,
        smallest_image_size=1,
        reference=f"{_SHUFFLENET_V2}, width {width}",
    )


_CONVNEXT = "Liu et al., A ConvNet for the 2020s, arXiv:2201.03545"


def _convnext(name: str, configuration: str, parameter_count: int) -> Model:
    return Model(
        name=name,
        family="convnext",
        constructor="convnext:ConvNeXt",
        arguments=(("configuration", configuration),),
        parameter_count=parameter_count,
        batch_stat_count=0,
        image_size=224,
        smallest_image_size=32,
        reference=f"{_CONVNEXT}, ConvNeXt-{configuration}",
    )


_SWIN = {
    1: "Liu et al., Swin Transformer: Hierarchical Vision Transformer using Shifted Windows, arXiv:2103.14030",
    2: "Liu et al., Swin Transformer V2: Scaling Up Capacity and Resolution, arXiv:2111.09883",
}


def _swin(name: str, configuration: str, version: int, parameter_count: int) -> Model:
    window = 7 if version == 1 else 8
    return Model(
        name=name,
        family="swin" if version == 1 else "swin_v2",
        constructor="swin:SwinTransformer",
        arguments=(("configuration", configuration), ("version", version), ("window", window)),
        parameter_count=parameter_count,
        batch_stat_count=0,
        image_size=32 * window,
        smallest_image_size=4,
        reference=f"{_SWIN[version]}, Swin-{configuration}",
    )


_MAXVIT = "Tu et al., MaxViT: Multi-Axis Vision Transformer, arXiv:2204.01697"


def _maxvit(name: str, configuration: str, parameter_count: int, batch_stat_count: int) -> Model:
    return Model(
        name=name,
        family="maxvit",
        constructor="maxvit:MaxViT",
        arguments=(("configuration", configuration),),
        parameter_count=parameter_count,
        batch_stat_count=batch_stat_count,
        image_size=224,
        smallest_image_size=224,
        image_size_divisor=224,
        reference=f"{_MAXVIT}, MaxViT-{configuration}",
    )


MODELS: tuple[Model, ...] = (
    _alexnet(),
    _convnext("convnext_tiny", "T", 28_589_128),
    _convnext("convnext_small", "S", 50_223_688),
    _convnext("convnext_base", "B", 88_591_464),
    _convnext("convnext_large", "L", 197_767_336),
    _densenet(121, 7_978_856, 83_648),
    _densenet(161, 28_681_000, 219_936),
    _densenet(169, 14_149_480, 158_400),
    _densenet(201, 20_013_928, 229_056),
    _efficientnet("efficientnet_b0", 5_288_548, 42_016, 224, 0.2),
    _efficientnet("efficientnet_b1", 7_794_184, 62_048, 240, 0.2, depth=1.1),
    _efficientnet("efficientnet_b2", 9_109_994, 67_568, 288, 0.3, width=1.1, depth=1.2),
    _efficientnet("efficientnet_b3", 12_233_232, 87_296, 300, 0.3, width=1.2, depth=1.4),
    _efficientnet("efficientnet_b4", 19_341_616, 125_200, 380, 0.4, width=1.4, depth=1.8),
    _efficientnet("efficientnet_b5", 30_389_784, 172_736, 456, 0.4, width=1.6, depth=2.2, epsilon=1e-3, momentum=0.99),
    _efficientnet("efficientnet_b6", 43_040_704, 224_432, 528, 0.5, width=1.8, depth=2.6, epsilon=1e-3, momentum=0.99),
    _efficientnet("efficientnet_b7", 66_347_960, 310_720, 600, 0.5, width=2.0, depth=3.1, epsilon=1e-3, momentum=0.99),
    _efficientnet("efficientnet_v2_s", 21_458_488, 153_872, 384, 0.2, configuration="V2-S", epsilon=1e-3),
    _efficientnet("efficientnet_v2_m", 54_139_356, 292_032, 480, 0.3, configuration="V2-M", epsilon=1e-3),
    _efficientnet("efficientnet_v2_l", 118_515_272, 512_576, 480, 0.4, configuration="V2-L", epsilon=1e-3),
    _googlenet("googlenet", False, 6_624_904, 14_560),
    _googlenet("googlenet_auxiliary", True, 13_004_888, 15_072),
    _gpt2("gpt2", "small", 124_439_808),
    _gpt2("gpt2_medium", "medium", 354_823_168),
    _gpt2("gpt2_large", "large", 774_030_080),
    _gpt2("gpt2_xl", "xl", 1_557_611_200),
    _inception_v3("inception_v3", True, 27_161_264, 36_224, 299),
    _inception_v3("inception_v3_no_auxiliary", False, 23_834_568, 34_432, 75),
    _llama("llama_tiny", "tiny", 119_104, classes=256, sequence_length=64),
    _llama("llama3_1b", "1B", 1_235_814_400),
    _llama("llama3_8b", "8B", 8_030_261_248),
    _maxvit("maxvit_t", "T", 30_919_624, 47_616),
    _mobilenet_v2("mobilenet_v2", 3_504_872, 34_112),
    _mobilenet_v3("mobilenet_v3_large", "Large", 5_483_032, 24_400),
    _mobilenet_v3("mobilenet_v3_small", "Small", 2_542_856, 12_112),
    _mnasnet("mnasnet0_5", 0.5, 2_218_512, 20_624),
    _mnasnet("mnasnet0_75", 0.75, 3_170_208, 29_808),
    _mnasnet("mnasnet1_0", 1.0, 4_383_312, 37_920),
    _mnasnet("mnasnet1_3", 1.3, 6_282_256, 48_816),
    _regnet("regnet_x_400mf", 5_495_976, 37_856, 22, 24, 24.48, 2.54, 16),
    _regnet("regnet_x_800mf", 7_259_656, 37_312, 16, 56, 35.73, 2.28, 16),
    _regnet("regnet_x_1_6gf", 9_190_136, 43_504, 18, 80, 34.01, 2.25, 24),
    _regnet("regnet_x_3_2gf", 15_296_552, 62_560, 25, 88, 26.31, 2.25, 48),
    _regnet("regnet_x_8gf", 39_572_648, 90_464, 23, 80, 49.56, 2.88, 120),
    _regnet("regnet_x_16gf", 54_278_536, 111_168, 22, 216, 55.59, 2.1, 128),
    _regnet("regnet_x_32gf", 107_811_560, 162_016, 23, 320, 69.86, 2.0, 168),
    _regnet("regnet_y_400mf", 4_344_144, 27_152, 16, 48, 27.89, 2.09, 8),
    _regnet("regnet_y_800mf", 6_432_512, 30_432, 14, 56, 38.84, 2.4, 16),
    _regnet("regnet_y_1_6gf", 11_202_430, 52_672, 27, 48, 20.71, 2.65, 24),
    _regnet("regnet_y_3_2gf", 19_436_338, 66_160, 21, 80, 42.63, 2.66, 24),
    _regnet("regnet_y_8gf", 39_381_472, 86_528, 17, 192, 76.82, 2.19, 56),
    _regnet("regnet_y_16gf", 83_590_140, 122_816, 18, 200, 106.23, 2.48, 112),
    _regnet("regnet_y_32gf", 145_046_770, 158_288, 20, 232, 115.89, 2.53, 232),
    _regnet("regnet_y_128gf", 644_812_894, 415_072, 27, 456, 160.83, 2.52, 264, image_size=384),
    _resnet("resnet", "resnet18", 18, 11_689_512, 9_600),
    _resnet("resnet", "resnet34", 34, 21_797_672, 17_024),
    _resnet("resnet", "resnet50", 50, 25_557_032, 53_120),
    _resnet("resnet", "resnet101", 101, 44_549_160, 105_344),
    _resnet("resnet", "resnet152", 152, 60_192_808, 151_424),
    _resnet("resnext", "resnext50_32x4d", 50, 25_028_904, 68_224, groups=32, group_width=4),
    _resnet("resnext", "resnext101_32x8d", 101, 88_791_336, 202_880, groups=32, group_width=8),
    _resnet("resnext", "resnext101_64x4d", 101, 83_455_272, 202_880, groups=64, group_width=4),
    _shufflenet_v2("shufflenet_v2_x0_5", "0.5", 1_366_792, 7_952),
    _shufflenet_v2("shufflenet_v2_x1_0", "1.0", 2_278_604, 16_180),
    _shufflenet_v2("shufflenet_v2_x1_5", "1.5", 3_503_624, 23_440),
    _shufflenet_v2("shufflenet_v2_x2_0", "2.0", 7_393_996, 33_716),
    _squeezenet("1.0", 1_248_424, 21),
    _squeezenet("1.1", 1_235_496, 17),
    _unet(),
    _swin("swin_t", "T", 1, 28_288_354),
    _swin("swin_s", "S", 1, 49_606_258),
    _swin("swin_b", "B", 1, 87_768_224),
    _swin("swin_v2_t", "T", 2, 28_351_570),
    _swin("swin_v2_s", "S", 2, 49_737_442),
    _swin("swin_v2_b", "B", 2, 87_930_848),
    _vgg("vgg11", "A", False, 132_863_336, 0),
    _vgg("vgg13", "B", False, 133_047_848, 0),
    _vgg("vgg16", "D", False, 138_357_544, 0),
    _vgg("vgg19", "E", False, 143_667_240, 0),
    _vgg("vgg11_bn", "A", True, 132_868_840, 5_504),
    _vgg("vgg13_bn", "B", True, 133_053_736, 5_888),
    _vgg("vgg16_bn", "D", True, 138_365_992, 8_448),
    _vgg("vgg19_bn", "E", True, 143_678_248, 11_008),
    _vit("vit_b_16", "Base", 16, 86_567_656),
    _vit("vit_b_32", "Base", 32, 88_224_232),
    _vit("vit_l_16", "Large", 16, 304_326_632),
    _vit("vit_l_32", "Large", 32, 306_535_400),
    _vit("vit_h_14", "Huge", 14, 632_045_800),
    _resnet("wide_resnet", "wide_resnet50_2", 50, 68_883_240, 68_224, group_width=128),
    _resnet("wide_resnet", "wide_resnet101_2", 101, 126_886_696, 137_856, group_width=128),
)
