"""What the networks of a family have in common: a function for each, which makes a row of the table of networks."""

from jaxmem_models.registry.model import Model


def alexnet() -> Model:
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


def densenet(depth: int, parameter_count: int, batch_stat_count: int) -> Model:
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


def googlenet(name: str, auxiliary: bool, parameter_count: int, batch_stat_count: int) -> Model:
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


def inception_v3(
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


def resnet(
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


def squeezenet(version: str, parameter_count: int, smallest_image_size: int) -> Model:
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


def unet() -> Model:
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


def vgg(name: str, configuration: str, batch_norm: bool, parameter_count: int, batch_stat_count: int) -> Model:
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


def vit(name: str, variant: str, patch_size: int, parameter_count: int) -> Model:
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


def llama(
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


def gpt2(name: str, variant: str, parameter_count: int) -> Model:
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


def efficientnet(
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


def mobilenet_v2(name: str, parameter_count: int, batch_stat_count: int) -> Model:
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


def regnet(
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


def mnasnet(name: str, width_multiplier: float, parameter_count: int, batch_stat_count: int) -> Model:
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


def mobilenet_v3(name: str, configuration: str, parameter_count: int, batch_stat_count: int) -> Model:
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


def shufflenet_v2(name: str, width: str, parameter_count: int, batch_stat_count: int) -> Model:
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


def convnext(name: str, configuration: str, parameter_count: int) -> Model:
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


def swin(name: str, configuration: str, version: int, parameter_count: int) -> Model:
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


def maxvit(name: str, configuration: str, parameter_count: int, batch_stat_count: int) -> Model:
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
