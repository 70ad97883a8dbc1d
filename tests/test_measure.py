"""What is measured besides the accuracy: calibration, classes, agreement."""

import pytest
import torch
from conftest import striped
from torch import nn

from netpress.core.measure import accuracy_by_class, answers, calibration_error, evaluate, evidence


class Says(nn.Module):
    """Names the class whose stripe it sees, or always the first, with some confidence."""

    def __init__(self, confidence, sees):
        super().__init__()
        self.confidence, self.sees = confidence, sees

    def forward(self, images):
        stripes = images.mean((1, 3))[:, [1, 10, 19]]  # (B, 3): a row of each class's stripe
        named = stripes.argmax(1) if self.sees else torch.zeros(len(images)).long()
        rest = (1 - self.confidence) / 2
        return torch.full((len(images), 3), rest).scatter(1, named[:, None], self.confidence).log()


def test_a_sure_and_right_network_is_calibrated_and_an_unsure_one_is_not():
    split = striped(90)
    sure, unsure = evaluate(Says(0.999, sees=True), split), evaluate(Says(0.6, sees=True), split)
    assert sure.accuracy == unsure.accuracy == 1.0
    assert sure.detail(split)["val_ece"] == pytest.approx(0.001, abs=1e-5)
    assert unsure.detail(split)["val_ece"] == pytest.approx(0.4, abs=1e-5)


def test_calibration_error_weighs_each_bin_by_its_images():
    hit = torch.tensor([True, False, True, True])
    confidence = torch.tensor([0.5, 0.5, 0.9, 0.9])
    assert calibration_error(hit, confidence) == pytest.approx(0.5 * 0.0 + 0.5 * 0.1)


def test_accuracy_by_class_leaves_out_a_class_without_images():
    split = striped(9, num_classes=4)
    hit = split.labels != 1
    assert accuracy_by_class(hit, split) == (1.0, 0.0, 1.0, None)


def agreement(network, other, split):
    return evidence(network, striped(30), split, answers(other, split))["teacher_agreement"]


def test_agreement_counts_equal_answers_whether_right_or_not():
    split = striped(90)
    assert agreement(Says(0.9, sees=True), Says(0.5, sees=True), split) == 1.0
    assert agreement(Says(0.9, sees=True), Says(0.9, sees=False), split) == pytest.approx(1 / 3)


def test_evidence_names_the_teacher_only_where_there_is_one():
    train, val = striped(60), striped(30, seed=1)
    alone = evidence(Says(0.9, sees=True), train, val)
    assert alone == {"train_acc": 1.0}
    assert agreement(Says(0.9, sees=True), Says(0.9, sees=False), val) == pytest.approx(1 / 3)
