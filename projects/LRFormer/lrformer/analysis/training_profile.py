"""Where the time of a training step goes: operators of the profiler, by kind of work."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

from torch import nn
from torch.autograd.profiler_util import DeviceType, FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

PRODUCTS = "matrix products and convolutions"
DEPTHWISE = "depth-wise convolutions"
LOSS, OPTIMIZER, OTHER = "loss", "optimizer", "other"
OUTSIDE = "(outside operators: Python)"
_STEP, _LOSS = "lrformer: step", "lrformer: loss"

_CONVOLUTION = re.compile(r".*conv(olution|\d|_depthwise|_transpose).*")
# Of operators' names without namespace and outer underscores; an operator is of the first kind that
# fits, or else "other".
_KINDS = {
    PRODUCTS: r"(add|badd|addb)?b?mm|(add)?mv|dot|vdot|matmul|einsum|(mkldnn_)?linear(_backward)?"
    r"|linear_pointwise|addmm_activation",
    "attention": r".*scaled_dot_product.*|.*(flash|efficient)_attention.*"
    r"|softmax(_backward_data)?|grid_sampler.*|.*embedding_bag.*",
    "activations": r"(gelu|relu|threshold|silu|sigmoid|tanh|leaky_relu|elu|hardswish)(_backward)?",
    "norms": r".*(batch|layer|group|instance|rms)_norm.*",
    "pooling and resizing": r".*pool\d?d.*|upsample.*",
    "copies, transposes, allocation": r"(to_)?copy|clone|contiguous|to|type_as|(un)?flatten|item"
    r"|local_scalar_dense|transpose|permute|movedim|t|flip|roll|repeat|cat|stack|constant_pad_nd"
    r"|(unsafe_)?view(_as)?|reshape(_alias)?|as_strided(_scatter)?|(un)?squeeze|expand(_as)?"
    r"|slice(_backward)?|select(_backward)?|narrow|split(_with_sizes)?|chunk|unbind|alias|detach"
    r"|lift_fresh|(new_)?(empty|zeros|ones|full)(_like|_strided)?|fill|zero|resize",
    "element-wise arithmetic and sums": r"add|sub|rsub|mul|div|neg|addcmul|addcdiv|lerp|pow|sqrt"
    r"|rsqrt|exp|log|abs|sum|mean|clamp(_min|_max)?|minimum|maximum|where|bernoulli",
}
_PATTERNS = {kind: re.compile(pattern) for kind, pattern in _KINDS.items()}
KINDS = (PRODUCTS, DEPTHWISE, *list(_KINDS)[1:], LOSS, OPTIMIZER, OTHER)
_NAMESPACES = ("aten", "mkldnn", "onednn", "torchvision")


@dataclass(frozen=True)
class Operator:
    """Calls of an operator.

    Attributes:
        name: as the profiler has it ("aten::mm").
        shapes: of its inputs, () or [] where one is no tensor.
        within: LOSS or OPTIMIZER where it ran for that, else "".
        seconds: of its own, without those of the operators that it called.
    """

    name: str
    shapes: Sequence[Sequence[int]]
    within: str
    seconds: float


@dataclass(frozen=True)
class Work:
    """The time of a kind of work.

    Attributes:
        kind: of :data:`KINDS`.
        seconds: together.
        share: of the step.
        operators: seconds by name, the longest first.
    """

    kind: str
    seconds: float
    share: float
    operators: dict[str, float]


def kind_of(operator: Operator) -> str:
    """Which of :data:`KINDS` an operator is."""
    if operator.within:
        return operator.within
    namespace, _, name = operator.name.rpartition("::")
    if namespace not in _NAMESPACES:
        return OTHER
    if _CONVOLUTION.fullmatch(name):
        return _kind_of_convolution(name, operator.shapes)
    name = name.strip("_")
    return next((kind for kind, x in _PATTERNS.items() if x.fullmatch(name)), OTHER)


def _kind_of_convolution(name: str, shapes: Sequence[Sequence[int]]) -> str:
    """By the channels of a filter; "other" where the shapes are not told."""
    # The gradient, or what a sum goes to, is the first argument of these.
    first = 1 if "backward" in name or name.endswith("pointwise_") else 0
    maps = [list(shape) for shape in shapes[first : first + 2]]
    if len(maps) < 2 or any(len(shape) < 3 for shape in maps):
        return OTHER
    (_, channels, *_), (_, of_filter, *_) = maps
    return DEPTHWISE if of_filter == 1 < channels else PRODUCTS


def summarise(operators: Iterable[Operator]) -> list[Work]:
    """Time by kind of work, in the order of :data:`KINDS`; kinds that did not run are left out."""
    names = defaultdict(lambda: defaultdict(float))
    for operator in operators:
        names[kind_of(operator)][operator.name] += operator.seconds
    total = sum(sum(x.values()) for x in names.values())
    rows = []
    for kind in (kind for kind in KINDS if kind in names):
        longest = sorted(names[kind].items(), key=lambda item: -item[1])
        seconds = sum(names[kind].values())
        rows.append(Work(kind, seconds, seconds / total if total else 0.0, dict(longest)))
    return rows


def profile_step(step: Callable[[], object], on_gpu: bool = False) -> list[dict]:
    """Run one step under the profiler.

    Args:
        step: a :class:`~.training_step.TrainingStep`.
        on_gpu: tell the time of the GPU's kernels; else that of the CPU, in which case all rows
            together are the step's time.

    Returns:
        :class:`Work` as dicts.
    """
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    restore = _mark_loss(step.model)
    try:
        with (
            profile(activities=activities, record_shapes=True) as profiler,
            record_function(_STEP),
        ):
            step()
    finally:
        restore()
    return [asdict(work) for work in summarise(_operators(profiler.events(), on_gpu))]


def _mark_loss(model: nn.Module) -> Callable[[], None]:
    """Have the profiler name what computes the loss; returns what undoes it."""
    owner, name = (
        (model.criterion, "forward")
        if hasattr(model, "criterion")
        else (model.sem_seg_head, "losses")
    )
    inner = getattr(owner, name)

    def marked(*args, **kwargs):
        with record_function(_LOSS):
            return inner(*args, **kwargs)

    setattr(owner, name, marked)
    return lambda: delattr(owner, name)


def _operators(events: Sequence[FunctionEvent], on_gpu: bool) -> Iterable[Operator]:
    events = [event for event in events if event.device_type == DeviceType.CPU]
    # A node of the backward pass bears the number of the operator that recorded it.
    of_loss = {
        (event.thread, event.sequence_nr)
        for event in events
        if event.sequence_nr >= 0 and any(x.name == _LOSS for x in _ancestry(event))
    }
    for event in events:
        micros = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if micros:
            name = OUTSIDE if event.name in (_STEP, _LOSS) else event.name
            within = _within(event, of_loss)
            yield Operator(name, event.input_shapes or (), within, micros / 1e6)


def _within(event: FunctionEvent, of_loss: set[tuple[int, int]]) -> str:
    for above in _ancestry(event):
        if above.name == _LOSS:
            return LOSS
        if above.name.startswith("Optimizer."):
            return OPTIMIZER
        if "Backward" in above.name and (above.fwd_thread, above.sequence_nr) in of_loss:
            return LOSS
    return ""


def _ancestry(event: FunctionEvent | None) -> Iterable[FunctionEvent]:
    """The event, what called it, what called that, …"""
    while event is not None:
        yield event
        event = event.cpu_parent
