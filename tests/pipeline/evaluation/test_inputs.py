"""Whatever somebody brings is taken as it is meant, or refused in one line that says what would be right."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from pipeline.errors import InputError
from pipeline.evaluation.doubts import doubts_about
from pipeline.evaluation.inputs import (
    check_outputs,
    checked_images,
    checked_labels,
    checked_logits,
    checked_masks,
    checked_system,
    device_of,
    doubt_about,
    doubt_about_logits,
    own_batches,
)
from pipeline.system import TwoStage, as_system

PICTURES = torch.rand(4, 3, 6, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 2, 1, 0])


@pytest.mark.parametrize("images", [PICTURES, PICTURES.double(), PICTURES.numpy(), PICTURES.clone().requires_grad_()])
def test_images_in_the_unit_range_are_taken_as_they_are(images: Any) -> None:
    taken = checked_images(images)
    assert torch.equal(taken.float(), PICTURES)
    assert not taken.requires_grad


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ((PICTURES * 255).byte(), r"images are uint8, 0 to 255: make them floats in \[0,1\], images\.float\(\) / 255"),
        (PICTURES * 255, r"images go from 0\.\d+ to 25\d\.?\d*, expected \[0,1\]: divide them by 255"),
        (PICTURES * 4 - 2, r"images go from -\S+ to \S+, expected \[0,1\]: they look normalised; [^\n]*first layer of the system"),
        (
            PICTURES.permute(0, 2, 3, 1),
            r"images have the shape \(4, 6, 8, 3\), [^\n]*channels are last, say images\.permute\(0, 3, 1, 2\)",
        ),
        (PICTURES[0], r"images have the shape \(3, 6, 8\): a batch of one is images\[None\]"),
        (PICTURES[:, 0], r"images have the shape \(4, 6, 8\): grey images have one channel, say images\[:, None\]\.expand\(-1, 3"),
        (PICTURES.to_sparse(), r"images are a tensor torch\.sparse_coo, expected a dense one"),
        (PICTURES.to("meta"), r"images are a tensor without values, expected a dense one"),
        (PICTURES[:, :1], r"images have the shape \(4, 1, 6, 8\), [^\n]*one channel, say images\.expand\(-1, 3, -1, -1\)"),
        (PICTURES[:, :2], r"images have the shape \(4, 2, 6, 8\), expected \(batch, 3, height, width\)"),
        (PICTURES[:0], r"images are an empty batch"),
        (PICTURES.half(), r"images are torch\.float16: [^\n]*say images\.float\(\)"),
        (PICTURES.long(), r"images are torch\.int64, expected floats in \[0,1\]"),
        (PICTURES.masked_fill(PICTURES > 0.9, torch.nan), r"images go from nan to nan, expected \[0,1\]"),
        (["a.png"], r"images are a list, expected a tensor \(of a list of tensors torch\.stack[^\n]*: "),
        (None, r"images are a NoneType, expected a tensor [^\n]*: "),
    ],
)
def test_images_that_cannot_be_are_refused_with_the_remedy(images: Any, said: str) -> None:
    with pytest.raises(InputError, match=rf"^{said}[^\n]*$"):
        checked_images(images)


@pytest.mark.parametrize("labels", [LABELS, LABELS.int(), LABELS.byte(), LABELS.tolist(), LABELS.numpy()])
def test_labels_of_any_whole_type_are_taken(labels: Any) -> None:
    taken = checked_labels(labels, count=4, num_classes=3)
    assert taken.dtype == torch.int64
    assert torch.equal(taken, LABELS)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (LABELS.float(), r"labels are torch\.float32, expected class indices: say labels\.long\(\)"),
        (LABELS + 0.5, r"labels are torch\.float32, not all of them whole numbers; expected class indices$"),
        (LABELS * float("nan"), r"labels are torch\.float32, not all of them whole numbers; expected class indices$"),
        (nn.functional.one_hot(LABELS), r"labels have the shape \(4, 3\): if they are one-hot, say labels\.argmax\(1\)"),
        (LABELS[:3], r"labels have the shape \(3,\), expected \(4,\)"),
        (LABELS + 1, r"labels go from 1 to 3, expected 0 to 2: the system has 3 classes"),
        (LABELS - 1, r"labels go from -1 to 1, expected 0 to 2: the system has 3 classes"),
    ],
)
def test_labels_that_cannot_be_are_refused_with_the_remedy(labels: Tensor, said: str) -> None:
    with pytest.raises(InputError, match=rf"^{said}$|^{said}:[^\n]*$"):
        checked_labels(labels, count=4, num_classes=3)


MASKS = (PICTURES[:, :1] > 0.5).float()


@pytest.mark.parametrize("masks", [MASKS, MASKS[:, 0], MASKS.bool(), MASKS.byte(), MASKS.double()])
def test_masks_are_taken_with_and_without_their_channel(masks: Tensor) -> None:
    assert torch.equal(checked_masks(masks, PICTURES), MASKS)


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        ((MASKS * 255).byte(), r"masks are uint8 up to 255: make them foreground shares in \[0,1\], masks\.float\(\) / 255"),
        (MASKS * 255, r"masks go from 0 to 255, expected foreground shares in \[0,1\]: divide them by 255"),
        (MASKS[..., :-1], r"masks have the shape \(4, 1, 6, 7\), expected \(4, 1, 6, 8\) as the images"),
    ],
)
def test_masks_that_cannot_be_are_refused_with_the_remedy(masks: Tensor, said: str) -> None:
    with pytest.raises(InputError, match=rf"^{said}$"):
        checked_masks(masks, PICTURES)


class Returns(nn.Module):
    """A model whose output is a function of its logits."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.change = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(3 * 6 * 8, 3)), change

    def forward(self, images: Tensor) -> Any:
        return self.change(self.body(images))


def raising(error: BaseException) -> Callable[[Tensor], Any]:
    def forward(logits: Tensor) -> Any:
        del logits
        raise error

    return forward


class Failing(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        assert images.shape[-1] == 224, "Input width (8) doesn't match model (224)."
        return images


class OfOneSize(Returns):
    """As a model that was traced with a batch."""

    def __init__(self, size: int) -> None:
        super().__init__(lambda logits: logits)
        self.size = size

    def forward(self, images: Tensor) -> Any:
        return super().forward(images.view(self.size, 3, 6, 8))


class ClassesByBatch(Returns):
    """One more for two images and more, or for a full batch alone."""

    def __init__(self, size: int) -> None:
        super().__init__(lambda logits: logits)
        self.size = size

    def forward(self, images: Tensor) -> Any:
        logits = super().forward(images)
        return logits if len(images) < self.size else nn.functional.pad(logits, (0, 1))


class ReusesItsOutput(Returns):
    def __init__(self) -> None:
        super().__init__(lambda logits: logits)
        self.outputs = torch.zeros(64, 3)

    def forward(self, images: Tensor) -> Any:
        self.outputs[: len(images)] = super().forward(images)
        return self.outputs[: len(images)]


class Normalizing(Returns):
    """In place."""

    def __init__(self) -> None:
        super().__init__(lambda logits: logits)

    def forward(self, images: Tensor) -> Any:
        return super().forward(images.sub_(0.5))


class BlindInTheDark(Returns):
    def __init__(self) -> None:
        super().__init__(lambda logits: logits)

    def forward(self, images: Tensor) -> Any:
        return super().forward(images) / (images.amax(dim=(1, 2, 3)) > 0)[:, None]


class ModeOfItsOwn(Failing):
    """As an exported program."""

    def train(self, mode: bool = True) -> "ModeOfItsOwn":
        del mode
        raise NotImplementedError("no train()")


ANY_SIZE = r"the system has to take batches of any size, [^\n]*: "


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            Returns(lambda logits: (logits, logits)),
            r"the model returns a tuple of 2, not a tensor: wrap it in a module [^\n]*alone",
        ),
        (Returns(lambda logits: {"logits": logits}), r"the model returns a dictionary \(logits\): wrap it in a module [^\n]*alone"),
        (Returns(lambda logits: logits[:, 0]), r"the model returns the shape \(4,\) for 4 images, expected logits \(4, classes\)"),
        (Returns(lambda logits: logits[:2]), ANY_SIZE + r"the model returns the shape \(2, 3\) for 4 images"),
        (Returns(lambda logits: logits[:, :1]), r"the model returns the shape \(4, 1\) for 4 images"),
        (Returns(lambda logits: logits / 0), r"the model returns values that are not finite for clean images"),
        (Failing(), r"the system does not take images \(4, 3, 6, 8\): Input width \(8\) doesn't match model \(224\)\."),
        (Returns(raising(KeyError("pooled"))), r"the system does not take images \(4, 3, 6, 8\): KeyError: 'pooled'"),
        (Returns(raising(IndexError())), r"the system does not take images \(4, 3, 6, 8\): IndexError: "),
        (Returns(raising(Exception("boom"))), r"the system does not take images \(4, 3, 6, 8\): Exception: boom"),
        (Returns(raising(AssertionError())), r"the system does not take images \(4, 3, 6, 8\): AssertionError: "),
        (Returns(lambda logits: logits).double(), r"[^\n]* in torch\.float32 \(its weights are torch\.float64: make both one\): "),
        (Returns(lambda logits: (logits * 100).long()), r"the model returns torch\.int64, expected logits: dense floats"),
        (Returns(lambda logits: logits > 0), r"the model returns torch\.bool, expected logits: dense floats"),
        (Returns(lambda logits: logits.to(torch.complex64)), r"the model returns torch\.complex64, expected logits: dense floats"),
        (Returns(lambda logits: logits.to_sparse()), r"the model returns torch\.sparse_coo, expected logits: dense floats"),
        (Returns(lambda logits: logits).to("meta"), r"the system's body\.2\.weight has no values yet: run it on an image"),
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), r"the system's 1\.weight has no values yet: run it on an image"),
        (Returns(lambda logits: logits).half(), r"the system cannot be attacked: [^\n]*float32 or wider"),
        (Returns(lambda logits: logits.half()), r"the model returns torch\.float16 and its rounding hides [^\n]*in float32"),
        (Returns(lambda logits: logits.bfloat16()), r"the model returns torch\.bfloat16 and its rounding hides [^\n]*in float32"),
        (Returns(torch.squeeze), ANY_SIZE + r"the model returns the shape \(3,\) for 1 images"),
        (Returns(nn.BatchNorm1d(3, track_running_stats=False)), ANY_SIZE + r"the system does not take images \(1, 3, 6, 8\): "),
        (OfOneSize(4), ANY_SIZE + r"the system does not take images \(1, 3, 6, 8\): "),
        (OfOneSize(1), ANY_SIZE + r"the system does not take images \(4, 3, 6, 8\): "),
        (ClassesByBatch(2), r"the system has 3 and 4 classes, by the batch: give one logit a class in every batch"),
        (ClassesByBatch(9), r"the system has 3 and 4 classes, by the batch: "),
        (ReusesItsOutput(), r"the system writes its answer over the last one: [^\n]*logits\.clone\(\)"),
        (Normalizing(), r"the system writes into the images that it is given: say "),
        (ModeOfItsOwn(), r"the system cannot be attacked: no train\(\); give a module [^\n]*eval mode, not what torch\.export"),
    ],
)
def test_models_whose_outputs_are_no_logits_are_refused_with_the_remedy(model: nn.Module, said: str) -> None:
    with pytest.raises(InputError, match=rf"^{said}[^\n]*$"):
        checked_logits(checked_system(model), PICTURES, None, batch_size=9)


def test_checking_a_model_leaves_its_mode_alone() -> None:
    model = Returns(lambda logits: logits).train()
    model.body[1].eval()
    modes = [module.training for module in model.modules()]
    first, second = (checked_logits(as_system(model), PICTURES, None) for _ in range(2))
    assert torch.equal(first, second)  # in eval mode, or dropout would tell them apart
    assert [module.training for module in model.modules()] == modes


def test_one_image_without_an_answer_is_no_matter_of_the_size_of_the_batch() -> None:
    pictures = PICTURES.clone()
    pictures[2] = 0
    with pytest.raises(InputError, match=r"^the model returns values that are not finite for clean images"):
        checked_logits(as_system(BlindInTheDark()), pictures, None)


def test_probabilities_are_told_from_logits_and_their_logs_are_logits() -> None:
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    for taken in (logits, logits.abs(), -logits.abs(), logits.log_softmax(1)):
        assert doubt_about_logits(taken) is None
    probabilities = doubt_about_logits(logits.softmax(1))
    assert probabilities is not None
    assert "look like probabilities" in probabilities


@pytest.mark.parametrize(("last", "doubted"), [(nn.Sigmoid(), True), (nn.Identity(), False), (nn.Softplus(), False)])
def test_a_segmenter_that_ends_in_a_sigmoid_is_told_from_one_that_gives_logits(last: nn.Module, doubted: bool) -> None:
    segmenter = nn.Sequential(nn.Conv2d(3, 1, 1, bias=False), last)
    segmenter[0].weight = nn.Parameter(torch.tensor([20.0, -20.0, 0.0]).view(1, 3, 1, 1))
    for masks in ("learned", "learned-hard", "frozen"):
        system = TwoStage(Returns(lambda logits: logits), segmenter=segmenter, masks=masks)
        found = doubt_about(as_system(system), PICTURES, torch.randn(4, 3))
        expected = doubted and masks != "frozen"
        assert (found is not None and found.startswith("the segmenter's outputs look like probabilities")) == expected


def test_images_that_were_divided_twice_are_warned_about() -> None:
    with pytest.warns(UserWarning, match=r"^images go up to 0\.00\d+, all but black: [^\n]*divided by 255 twice$"):
        checked_images(PICTURES / 255)
    checked_images(PICTURES * 0)


def test_a_class_that_is_ruled_out_may_be_minus_infinity() -> None:
    forbidden = torch.tensor([0.0, -torch.inf, 0.0])
    assert checked_logits(as_system(Returns(lambda logits: logits + forbidden)), PICTURES, None)[:, 1].isneginf().all()


def test_what_is_no_module_is_no_system() -> None:
    with pytest.raises(InputError, match=r"^a system is a torch\.nn\.Module from images to logits, not function; [^\n]*$"):
        checked_system(lambda images: images)


def test_a_system_without_weights_is_on_the_cpu() -> None:
    assert device_of(checked_system(Failing())) == torch.device("cpu")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (PICTURES, r"data is a Tensor, expected batches of \(images, labels\)[^\n]*say \[\(images, labels\)\]"),
        ({"images": PICTURES}, r"data is a dict, expected batches"),
        (7, r"data is a int, expected batches"),
        (PICTURES.numpy(), r"data is a ndarray, expected batches[^\n]*say \[\(images, labels\)\]"),
        ((PICTURES, LABELS), r"data is a tuple, expected batches[^\n]*say \[\(images, labels\)\]"),
        ([PICTURES.numpy(), LABELS.numpy(), MASKS.numpy()], r"data is a list, expected batches[^\n]*say \[\(images, labels\)\]"),
        (TensorDataset(PICTURES, LABELS), r"data is a TensorDataset, expected batches[^\n]*say DataLoader\(data, batch_size=64\)"),
        ([PICTURES], r"a batch of the data is a Tensor, expected \(images, labels\) or \(images, labels, masks\)"),
        ([{"image": PICTURES, "label": LABELS}], r"a batch of the data is a dict of 2, expected"),
        ([(PICTURES,)], r"a batch of the data is a tuple of 1, expected"),
        ([(PICTURES, LABELS, MASKS, 3)], r"a batch of the data is a tuple of 4, expected"),
    ],
)
def test_data_of_another_form_are_refused_with_the_remedy(data: Any, said: str) -> None:
    with pytest.raises(InputError, match=rf"^{said}[^\n]*$"):
        list(own_batches(data))


DISC = torch.zeros(4, 1, 6, 8)
DISC[:, :, 2:4, 2:6] = 1


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        (1 - DISC, "in most masks the border is foreground, [^\n]*1 is the object$"),
        (DISC * 0, "most masks have no foreground"),
        (DISC / 255, "most masks have no foreground, [^\n]*divided by 255 twice"),
    ],
    ids=["inverted", "empty", "divided twice"],
)
def test_masks_that_are_none_or_of_the_background_are_warned_about(masks: Tensor, said: str) -> None:
    with pytest.warns(UserWarning, match=said):
        checked_masks(masks, PICTURES)


@pytest.mark.parametrize("masks", [DISC, DISC * 0 + 1, torch.cat([1 - DISC[:1], DISC[1:]]), torch.cat([DISC[:2] * 0, DISC[2:]])])
def test_other_masks_are_not(masks: Tensor) -> None:
    checked_masks(masks, PICTURES)
    checked_masks(1 - DISC[:1], PICTURES[:1])  # one picture may be all object but for a hole


@pytest.mark.parametrize("num_replicas", [1, 4])
def test_samplers_behind_a_batch_sampler_and_of_one_process_are_seen(num_replicas: int) -> None:
    dataset = TensorDataset(PICTURES, LABELS)
    with pytest.warns(UserWarning, match="the loader shuffles"):
        list(own_batches(DataLoader(dataset, batch_sampler=BatchSampler(RandomSampler(dataset), 2, drop_last=False))))
    sampler = DistributedSampler(dataset, num_replicas=num_replicas, rank=0, shuffle=False)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        list(own_batches(DataLoader(dataset, batch_size=2, sampler=sampler)))
    assert [str(one.message).startswith("the loader gives one of 4 shares") for one in told] == [True] * (num_replicas > 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda logits: nn.functional.dropout(logits, 0.5, training=True), "says something else of the same images at every call"),
        (lambda logits: logits + torch.randn_like(logits), "says something else of the same images at every call"),
        (lambda logits: logits - logits.mean(dim=0), "depends on the other images of the batch"),
        (lambda logits: logits * (1 + 1e-6 * torch.rand_like(logits)), None),
        (lambda logits: torch.cat([logits, torch.full((len(logits), 1), -torch.inf)], dim=1), None),
    ],
    ids=["dropout", "noise", "statistics of the batch", "rounding", "a class that is ruled out"],
)
def test_a_system_whose_answer_is_no_function_of_the_image_is_doubted(change: Callable[[Tensor], Tensor], said: str | None) -> None:
    system = as_system(Returns(change))
    doubts = list(doubts_about(system, PICTURES, None, checked_logits(system, PICTURES, None)))
    assert len(doubts) == (said is not None)
    assert said is None or said in doubts[0]


@pytest.mark.parametrize(("side", "doubted"), [(None, False), (8, True)])
def test_a_system_is_doubted_on_images_of_another_size_than_it_was_trained_on(side: int | None, doubted: bool) -> None:
    system = TwoStage(Returns(lambda logits: logits), masks="none")
    system.image_size = side
    doubts = list(doubts_about(system, PICTURES, None, system.eval()(PICTURES)))
    assert doubts == ["the system was trained on images of 8 x 8 pixels, and these have 6 x 8: resize them"] * doubted


@pytest.mark.parametrize(
    ("change", "doubted"), [(Tensor.sigmoid, True), (lambda logits: logits.sigmoid() / 2 + 0.25, False), (torch.tanh, False)]
)
def test_outputs_of_a_sigmoid_are_doubted_and_not_refused_for_a_cosine_may_lie_there_too(change: Any, doubted: bool) -> None:
    system, images = as_system(Returns(lambda logits: change(4 * logits / logits.std()))), torch.rand(40, 3, 6, 8)
    logits = system(images, None)
    assert doubt_about(system, images, logits) is None
    assert any("as probabilities of a sigmoid do" in doubt for doubt in doubts_about(system, images, None, logits)) == doubted


def test_a_loader_that_shuffles_is_warned_about_and_one_that_does_not_is_not() -> None:
    dataset = TensorDataset(PICTURES, LABELS)
    with pytest.warns(UserWarning, match=r"the loader shuffles: [^\n]*say shuffle=False"):
        shuffled = list(own_batches(DataLoader(dataset, batch_size=3, shuffle=True)))
    assert len(shuffled) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ordered = list(own_batches(DataLoader(dataset, batch_size=3)))
    assert torch.equal(torch.cat([batch.images for batch in ordered]), PICTURES)


def test_a_loader_that_leaves_images_out_is_warned_about() -> None:
    dataset = TensorDataset(PICTURES, LABELS)
    for loader in (
        DataLoader(dataset, batch_size=3, drop_last=True),
        DataLoader(dataset, batch_sampler=BatchSampler(SequentialSampler(dataset), 3, drop_last=True)),
    ):
        with pytest.warns(UserWarning, match="the loader leaves the last images out where they fill no batch; say drop_last=False"):
            assert len(list(own_batches(loader))) == 1


@pytest.mark.parametrize(
    ("sampler", "said"),
    [(SubsetRandomSampler(range(4)), "the loader shuffles"), (WeightedRandomSampler([1.0] * 4, 8), "draws images again and again")],
    ids=["subset", "weighted"],
)
def test_a_sampler_that_draws_is_warned_about(sampler: Any, said: str) -> None:
    with pytest.warns(UserWarning, match=said):
        list(own_batches(DataLoader(TensorDataset(PICTURES, LABELS), batch_size=3, sampler=sampler)))


class Reshaped(nn.Module):
    """A segmenter whose logits are changed in the end."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.change, self.last = change, nn.Conv2d(3, 1, 1)

    def forward(self, images: Tensor) -> Any:
        return self.change(self.last(images))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda logits: logits[:, 0], r"the mask has the shape \(3, 6, 8\) for images \(3, 3, 6, 8\), expected \(3, 1, 6, 8\)"),
        (lambda logits: logits.mean((2, 3), keepdim=True), r"the mask has the shape \(3, 1, 1, 1\)"),
        (lambda logits: logits.mean(2, keepdim=True), r"the mask has the shape \(3, 1, 1, 8\)"),
        (lambda logits: logits.mean(0, keepdim=True), r"the mask has the shape \(1, 1, 6, 8\)"),
        (lambda logits: logits.expand(-1, 3, -1, -1), r"the mask has the shape \(3, 3, 6, 8\)"),
        (lambda logits: logits[0, 0], r"the mask has the shape \(6, 8\)"),
        (lambda logits: logits[..., ::2, ::2], r"the mask has the shape \(3, 1, 3, 4\) [^\n]*resize what the segmenter returns"),
        (lambda logits: {"out": logits}, r"the segmenter returns a dict \(out\): wrap it"),
        (lambda logits: (logits,), r"the segmenter returns a tuple: wrap it"),
    ],
)
def test_masks_that_would_be_spread_over_the_images_are_refused(change: Callable[[Tensor], Any], said: str) -> None:
    """Three images: of (B,H,W) the masks of all three would be laid on each, as its three channels."""
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 8, 3))
    system = TwoStage(classifier, segmenter=Reshaped(change), masks="learned", fill="grey")
    with pytest.raises(InputError, match=said):
        checked_logits(system, PICTURES[:3], None)


def test_a_batch_that_is_a_mapping_is_refused_with_its_keys() -> None:
    with pytest.raises(InputError, match=r"dict of 2, [^\n]*say \(\(batch\[IMAGES\], [^\n]*its keys are image, label"):
        list(own_batches([{"image": PICTURES, "label": LABELS}]))


def test_outputs_of_numpy_are_no_tensor() -> None:
    with pytest.raises(InputError, match=r"^the model returns a ndarray, not a tensor"):
        check_outputs(np.zeros((4, 3)), 4)
