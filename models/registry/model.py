"""What a row of the registry says of a network. Reading it imports neither JAX nor Flax."""

from dataclasses import dataclass

TASKS: tuple[str, ...] = ("classification", "segmentation", "language")


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One network that can be named on the command line.

    Its constructor takes keywords alone: ``dtype`` (of the activations), ``param_dtype``, ``remat`` (None or ``"blocks"``) and
    ``rngs``, beside the arguments of this row and what the fields below name. The module it returns is called

    - with images [batch, height, width, channels]: it returns logits, [batch, classes] in a *classification* and
      [batch, height, width, classes] in a *segmentation*. In training, a network with auxiliary classifiers returns the tuple
      (logits, auxiliary logits, ...);
    - with tokens [batch, length] in a *language* model: it returns logits [batch, length, classes], of which each foretells the
      next token;
    - where it ``decodes``, in inference: ``module.cache(batch_size, length)`` is a pytree with all that is kept of the
      tokens before, arrays [batch, ...] and plain numbers; ``module.decode(tokens, cache)`` takes one token a sequence,
      [batch], and returns logits [batch, classes] and the next cache, of the same structure, shapes and dtypes.

    Attributes:
        name: what it is called on the command line.
        family: the architecture; networks of one family share a file.
        constructor: ``module:function``, inside this package; of another package, the module's full name.
        arguments: keyword arguments of the constructor that make this variant.
        parameter_count: trained numbers, as the constructor builds it when nothing else is asked for.
        batch_stat_count: numbers of running batch statistics, none of them trained.
        reference: the paper.
        task: ``classification`` (a label for each image), ``segmentation`` (a label for each pixel) or ``language`` (the next
            token).
        classes: the width of the logits; the vocabulary of a language model.
        auxiliary_weights: what the loss of each auxiliary classifier counts for in training, in the order of their logits.
        image_size: height and width of the paper's input; None for a language model.
        smallest_image_size: below it, the network has no pixel left.
        image_size_divisor: heights and widths are multiples of it.
        takes_image_size: the constructor takes ``image_size``, since parameters depend on it.
        channels: of an image.
        sequence_length: tokens of a sequence where none is asked for; None for a network of images.
        longest_sequence_length: tokens for which there are positions; None where any number will do.
        decodes: inference is one step of decoding against a cache of ``sequence_length`` tokens, not a whole sequence.
        scans: the constructor takes ``scan``, a bool: its layers run as one loop over stacked parameters.
        takes_pool: the constructor takes ``pool``, a name of `jaxmem_models.registry.POOLS`.
    """

    name: str
    family: str
    constructor: str
    arguments: tuple[tuple[str, str | int | float | bool], ...]
    parameter_count: int
    batch_stat_count: int
    reference: str
    task: str = "classification"
    classes: int = 1000
    auxiliary_weights: tuple[float, ...] = ()
    image_size: int | None = None
    smallest_image_size: int = 1
    image_size_divisor: int = 1
    takes_image_size: bool = False
    channels: int = 3
    sequence_length: int | None = None
    longest_sequence_length: int | None = None
    decodes: bool = False
    scans: bool = False
    takes_pool: bool = False

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"{self.name}: there is no task called {self.task!r}, only {', '.join(TASKS)}.")
        wanted, other = ("sequence_length", "image_size")[:: 1 if self.task == "language" else -1]
        if getattr(self, wanted) is None or getattr(self, other) is not None:
            raise ValueError(f"{self.name}: a network for {self.task} has {wanted}, and no {other}.")
