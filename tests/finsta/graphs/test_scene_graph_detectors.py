"""Detectors of transformers with tiny random weights: their boxes, labels and scores arrive as they should."""

import numpy as np
import pytest
import torch

import stgt._torchvision  # noqa: F401  (transformers imports torchvision)

import transformers as hf  # isort: skip

from stgt.finsta.graphs.video.detectors import TransformersDetector

FRAMES = torch.randint(0, 256, (3, 24, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def owl(tmp_path_factory):
    letters = [chr(number) for number in range(97, 123)]
    pieces = ["!", *letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = hf.CLIPTokenizer(vocab={p: i for i, p in enumerate(pieces)}, merges=[], model_max_length=16)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    words = {"vocab_size": len(pieces), "bos_token_id": 53, "eos_token_id": 54, "pad_token_id": 0}
    config = hf.Owlv2Config(
        text_config=size | words, vision_config=size | {"image_size": 32, "patch_size": 16}, projection_dim=16
    )
    images = hf.Owlv2ImageProcessor(size={"height": 32, "width": 32})
    folder = tmp_path_factory.mktemp("owl")
    torch.manual_seed(0)
    hf.Owlv2ForObjectDetection(config).save_pretrained(folder)
    hf.Owlv2Processor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "cat", "dog", "a"]
    text = {"model_type": "bert", "vocab_size": 9, "hidden_size": 16, "num_hidden_layers": 1}
    config = hf.GroundingDinoConfig(
        backbone_config=hf.SwinConfig(
            image_size=32, embed_dim=8, depths=[1, 1, 1], num_heads=[1, 1, 1], window_size=4, out_indices=[1, 2, 3]
        ),
        text_config=text | {"num_attention_heads": 2, "intermediate_size": 16},
        d_model=32, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=16, decoder_ffn_dim=16, num_queries=5, num_feature_levels=3, encoder_n_points=2,
        decoder_n_points=2, max_text_len=16,
    )  # fmt: skip
    images = hf.GroundingDinoImageProcessor(size={"shortest_edge": 32, "longest_edge": 64})
    tokenizer = hf.BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    folder = tmp_path_factory.mktemp("dino")
    torch.manual_seed(0)
    hf.GroundingDinoForObjectDetection(config).save_pretrained(folder)
    hf.GroundingDinoProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def rtdetr(tmp_path_factory):
    backbone = hf.RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8] * 4, depths=[1] * 4, layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = hf.RTDetrV2Config(
        backbone_config=backbone, encoder_hidden_dim=16, encoder_in_channels=[8] * 3, encoder_layers=1,
        encoder_ffn_dim=16, encoder_attention_heads=2, d_model=16, num_queries=5, decoder_in_channels=[16] * 3,
        decoder_ffn_dim=16, decoder_layers=2, decoder_attention_heads=2, decoder_n_points=2, num_denoising=0,
        id2label={0: "cat", 1: "dog"},
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("rtdetr")
    torch.manual_seed(0)
    hf.RTDetrV2ForObjectDetection(config).save_pretrained(folder)
    hf.RTDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def set_outputs(detector, monkeypatch, logits, boxes):
    """Lets the model find these things in every frame. boxes: centres and sizes as parts of the picture it sees."""
    forward = detector.model.forward

    def replaced(*inputs, **arguments):
        outputs = forward(*inputs, **arguments)
        count = len(outputs.pred_boxes)
        outputs.logits = torch.tensor(logits).expand(count, -1, -1)
        outputs.pred_boxes = torch.tensor(boxes).expand(count, -1, -1)
        return outputs

    monkeypatch.setattr(detector.model, "forward", replaced)


@pytest.mark.parametrize(("kind", "labels"), [("owl", ["a cat", "dog"]), ("dino", ["a cat", "dog"]), ("rtdetr", [])])
def test_a_model_with_random_weights_gives_detections_of_every_frame(kind, labels, request):
    detector = TransformersDetector(str(request.getfixturevalue(kind)), labels, threshold=0.01, batch=2)
    found = detector(FRAMES)
    assert len(found) == 3
    for one in found:
        assert set(one.labels) <= {"a cat", "cat", "dog"} and len(one.labels) == len(one.boxes) == len(one.scores)
        assert (one.boxes >= 0).all() and (one.boxes <= 1).all() and (one.boxes[:, :2] < one.boxes[:, 2:]).all()


def test_boxes_of_owlv2_are_parts_of_a_padded_square(owl, monkeypatch):
    detector = TransformersDetector(str(owl), ["a cat", "dog"], threshold=0.5, batch=2)
    # The frame is 48 wide and 24 high, so that it fills the upper half of the square.
    set_outputs(detector, monkeypatch, [[-9.0, 2.0], [-9.0, -9.0]], [[0.25, 0.25, 0.5, 0.25], [0.5, 0.5, 1.0, 1.0]])
    for one in detector(FRAMES):
        assert one.labels == ("dog",) and one.scores == pytest.approx(torch.tensor(2.0).sigmoid().item(), abs=1e-5)
        np.testing.assert_allclose(one.boxes, [[0, 0.25, 0.5, 0.75]], atol=1e-4)


def test_grounding_dino_gives_the_label_of_the_most_probable_word(dino, monkeypatch):
    detector = TransformersDetector(str(dino), ["a cat", "dog"], threshold=0.5, batch=2)
    # The words are [CLS] a cat . dog . [SEP]; the third box is about none of them.
    logits = [[9.0, -9, 3, -9, 1, -9, 9], [-9.0, 0, 0, -9, 1, -9, -9], [9.0, -9, -9, 9, -9, 9, 9]]
    set_outputs(detector, monkeypatch, logits, [[0.25, 0.5, 0.5, 1.0], [0.75, 0.5, 0.5, 1.0], [0.5, 0.5, 1.0, 1.0]])
    for one in detector(FRAMES):
        assert one.labels == ("a cat", "dog")
        np.testing.assert_allclose(one.scores, torch.tensor([3.0, 1.0]).sigmoid(), atol=1e-5)
        np.testing.assert_allclose(one.boxes, [[0, 0, 0.5, 1], [0.5, 0, 1, 1]], atol=1e-5)
    with pytest.raises(ValueError, match="expected names without full stops"):
        TransformersDetector(str(dino), ["a. cat"])(FRAMES)


def test_rt_detr_keeps_its_own_classes(rtdetr, monkeypatch):
    logits, boxes = [[3.0, -9], [-9.0, 1]], [[0.25, 0.5, 0.5, 1.0], [0.75, 0.5, 0.5, 1.0]]
    for labels, expected in (((), ("cat", "dog")), (("dog",), ("dog",))):
        detector = TransformersDetector(str(rtdetr), labels, threshold=0.5)
        set_outputs(detector, monkeypatch, logits, boxes)
        for one in detector(FRAMES):
            assert one.labels == expected
            np.testing.assert_allclose(one.boxes[-1], [0.5, 0, 1, 1], atol=1e-5)
    with pytest.raises(ValueError, match="labels has 'cow', expected classes of"):
        TransformersDetector(str(rtdetr), ["cow"])


def test_a_detector_for_named_things_needs_names(owl):
    with pytest.raises(ValueError, match=r"labels is empty, expected names of things that .* \(owlv2\) looks for"):
        TransformersDetector(str(owl))
